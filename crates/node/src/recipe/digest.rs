//! What a program is made of, as one number: its recipe, and the files of a commit that it depends on.
//!
//! Pure: names of files and names of their contents in, a digest out. As with an image, another digest is another program.
//! Where `inputs` say what a build depends on, only those count; else everything does but the manifests.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::build::hex;
use super::fingerprint::matches;
use super::{Recipe, RecipeError, Recipes};

/// The files of one commit, as far as programs are made of them. Paths are from the repository's root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Which repository it is, for telling.
    pub repository: String,
    /// Which commit it is, for telling.
    pub commit: String,
    /// The directory of the manifests; empty for the root.
    pub manifests: String,
    /// The recipe file.
    pub recipe: String,
    /// What is written in it.
    pub text: String,
    /// Every file, with the name of its content.
    pub files: BTreeMap<String, String>,
}

impl Tree {
    /// The recipes, as if the repository were the whole disk.
    pub(super) fn recipes(&self) -> Result<Recipes, RecipeError> {
        Recipes::parse(&self.text, &Path::new("/").join(&self.recipe))
    }

    /// The digest of one program.
    pub(super) fn digest(&self, recipe: &Recipe) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{recipe:?}"));
        for (path, content) in self.files.iter().filter(|(path, _)| self.counts(recipe, path)) {
            hash.update([0]);
            hash.update(path);
            hash.update([0]);
            hash.update(content);
        }
        format!("sha256:{}", hex(&hash.finalize()))
    }

    fn counts(&self, recipe: &Recipe, path: &str) -> bool {
        if path == self.recipe {
            return false; // what it says of this program is counted itself
        }
        let place = recipe.working_dir.to_string_lossy();
        if recipe.inputs.is_empty() {
            let manifests = format!("/{}", self.manifests);
            let apart = !self.manifests.is_empty() && !below(&place, &manifests);
            return !(apart && below(&format!("/{path}"), &manifests));
        }
        let parts: Vec<&str> = path.split('/').collect();
        recipe.inputs.iter().any(|input| {
            let whole = super::normal(&recipe.working_dir.join(input));
            let whole = whole.to_string_lossy();
            let pattern: Vec<&str> = whole.split('/').filter(|part| !part.is_empty()).collect();
            covers(&pattern, &parts)
        })
    }
}

fn below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path is named by a pattern, or is below a directory that is.
fn covers(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, _) => true,
        (Some((&"**", rest)), None) => rest.is_empty(),
        (Some((&"**", rest)), Some((_, below))) => covers(rest, path) || covers(pattern, below),
        (Some((first, rest)), Some((name, below))) => matches(first.as_bytes(), name.as_bytes()) && covers(rest, below),
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(recipe: &str, manifests: &str, text: &str, files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect();
        Tree { recipe: recipe.into(), manifests: manifests.into(), text: text.into(), files, ..Tree::default() }
    }

    fn digest(tree: &Tree) -> String {
        let recipes = tree.recipes().expect("valid");
        tree.digest(recipes.lookup("a").expect("it has one"))
    }

    #[test]
    fn what_a_program_depends_on_changes_its_digest_and_nothing_else_does() {
        let plain = "images: {a: {command: [x]}}";
        let inputs = "images: {a: {command: [x], workingDir: src, build: make, inputs: ['**/*.c', ../lib]}}";
        for (recipe, manifests, text, changed, differs) in [
            ("coracle.yaml", "deploy", plain, "main.py", true),
            ("coracle.yaml", "deploy", plain, "deploy/app.yaml", false),
            ("coracle.yaml", "", plain, "deploy/app.yaml", true),
            ("deploy/coracle.yaml", "deploy", plain, "deploy/main.py", true),
            ("coracle.yaml", "deploy", inputs, "src/a/b.c", true),
            ("coracle.yaml", "deploy", inputs, "src/a/b.h", false),
            ("coracle.yaml", "deploy", inputs, "lib/deep/x", true),
            ("coracle.yaml", "deploy", inputs, "other/b.c", false),
            ("coracle.yaml", "deploy", plain, "coracle.yaml", false),
        ] {
            let before = digest(&tree(recipe, manifests, text, &[(changed, "1")]));
            let after = digest(&tree(recipe, manifests, text, &[(changed, "2")]));
            assert_eq!(before != after, differs, "{changed} with {text}");
        }
        let other = tree("coracle.yaml", "deploy", "images: {a: {command: [y]}}", &[]);
        assert_ne!(digest(&tree("coracle.yaml", "deploy", plain, &[])), digest(&other));
    }
}
