use std::path::Path;

use super::*;

const AT: &str = "/work/shop/coracle.yaml";

fn parse(text: &str) -> Result<Recipes, RecipeError> {
    Recipes::parse(text, Path::new(AT))
}

#[test]
fn a_recipe_is_found_whatever_the_tag() {
    let recipes = parse(
        "images:\n  shop/orders:\n    command: [./target/shop]\n    args: [orders]\n    workingDir: ../bin\n    env:\n      A: b\n    build: make\n    inputs: [src]\n",
    )
    .expect("valid");
    let recipe = recipes.lookup("shop/orders:1.2@sha256:00").expect("found");
    assert_eq!(recipe.working_dir, Path::new("/work/bin"));
    assert_eq!(recipe.args, ["orders"]);
    assert_eq!(recipe.env["A"], "b");
    assert!(recipes.lookup("shop/users").is_none());
}

#[test]
fn an_empty_file_has_no_recipes() {
    assert_eq!(parse("").expect("valid").names().count(), 0);
    assert_eq!(parse("images:\n").expect("valid").names().count(), 0);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, expected) in [
        ("images:\n  a:\n    comand: [x]\n", ":3:"),
        ("images:\n  a:\n    command: [x]\n    command: [y]\n", ":4:"),
        ("images:\n  a:\n    command: [x]\n  a:\n    command: [y]\n", ":4:"),
        ("image: {}\n", ":1:"),
        ("images:\n  a:\n    command: x y\n", ":3:"),
        ("images:\n  a: [\n", "coracle.yaml:"),
        ("images:\n  a:v1:\n    command: [x]\n", "write \"a\""),
        ("images:\n  coracle.dev/host:\n    command: [x]\n", "takes no recipe"),
        ("images:\n  a:\n    inputs: [x]\n", "there is no build"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(error.starts_with(AT), "{text}: {error}");
    }
}

fn in_directory(build: &str, inputs: &str) -> (tempfile::TempDir, Recipes) {
    let dir = tempfile::tempdir().expect("a directory");
    let text = format!(
        "images:\n  a:\n    build: {build}\n    inputs: {inputs}\n  b:\n    build: {build}\n    inputs: {inputs}\n"
    );
    let recipes = Recipes::parse(&text, &dir.path().join(FILE)).expect("valid");
    (dir, recipes)
}

#[tokio::test]
async fn one_command_of_several_images_runs_once_and_again_only_after_a_change() {
    let (dir, recipes) = in_directory("echo made; echo x >> count", "[source]");
    std::fs::write(dir.path().join("source"), "1").expect("written");
    let state = dir.path().join("state");
    let mut said = Vec::new();
    let count = || std::fs::read_to_string(dir.path().join("count")).unwrap_or_default().lines().count();
    recipes
        .build(&[], &state, |p| {
            if let BuildProgress::Line { text, .. } = p {
                said.push(text.to_owned());
            }
        })
        .await
        .expect("built");
    assert_eq!((count(), said), (1, vec!["made".to_owned()]));
    recipes.build(&["a:v2".to_owned()], &state, |_| {}).await.expect("unchanged");
    assert_eq!(count(), 1);
    std::fs::write(dir.path().join("source"), "22").expect("written");
    recipes.build(&[], &state, |_| {}).await.expect("built");
    assert_eq!(count(), 2);
}

#[tokio::test]
async fn a_failed_build_tells_its_last_lines_and_is_not_remembered() {
    let (dir, recipes) = in_directory("echo out; echo wrong >&2; exit 3", "[source]");
    std::fs::write(dir.path().join("source"), "1").expect("written");
    for _ in 0..2 {
        let error = recipes.build(&[], &dir.path().join("state"), |_| {}).await.expect_err("fails").to_string();
        assert!(error.contains("a, b") && error.contains("exit status: 3"), "{error}");
        assert!(error.contains("wrong") && error.contains("out"), "{error}");
    }
}
