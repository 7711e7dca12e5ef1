//! Looks for secrets in what is pushed: private keys, tokens of known forms, and files that hold secrets by their nature.
//!
//! Pure: the text of a patch in, findings out. It knows forms, not meanings: a password in plain words passes, and so does
//! whatever is encoded. A line with `coracle:allow-secret` is let through.

use std::sync::LazyLock;

use regex::Regex;

/// How many findings are told.
const MOST: usize = 20;
/// What lets a line through.
const ALLOWED: &str = "coracle:allow-secret";

/// Name and form of each secret that is known.
static FORMS: LazyLock<Vec<(&'static str, Regex)>> = LazyLock::new(|| {
    let forms = [
        ("a private key", r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
        ("an AWS access key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
        ("an AWS secret key", r#"(?i)aws_?secret_?access_?key["']?\s*[:=]\s*["']?[A-Za-z0-9/+]{40}"#),
        ("a GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})"),
        ("a GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
        ("a Slack token", r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
        ("a Google API key", r"\bAIza[0-9A-Za-z_-]{35}\b"),
        ("a Stripe key", r"\b[rs]k_live_[0-9A-Za-z]{20,}"),
        ("a JSON web token", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
        // One line, as `coracle plan --out` writes it.
        ("a saved plan, which holds Secrets in plain text", r#"^\{"format":"coracle\.dev/plan/v1".*"desired":"#),
        ("a password in a URL", r"\b[a-z][a-z0-9+.-]*://[^\s:/@$<{]+:[^\s:/@$<{]{6,}@[a-z0-9]"),
    ];
    // The forms are constants; a test builds them all.
    forms.into_iter().filter_map(|(name, form)| Some((name, Regex::new(form).ok()?))).collect()
});

/// Something that looks like a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 where it is the file as such.
    pub line: usize,
    /// What it looks like.
    pub what: &'static str,
}

/// Looks through a patch as `git log -p -U0` writes it.
#[must_use]
pub fn findings(patch: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let (mut file, mut line) = (String::new(), 0);
    for text in patch.lines() {
        if let Some(name) = text.strip_prefix("+++ ") {
            file = name.strip_prefix("b/").unwrap_or(name).trim_end_matches('\t').to_owned();
            let base = file.rsplit('/').next().unwrap_or(&file);
            if base.ends_with(".tfstate") || base.ends_with(".tfstate.backup") {
                found.push(Finding {
                    file: file.clone(),
                    line: 0,
                    what: "a Terraform state file, which holds secrets in plain text",
                });
            }
        } else if let Some(hunk) = text.strip_prefix("@@ ") {
            let start = hunk.split('+').nth(1).and_then(|rest| rest.split([',', ' ']).next()?.parse().ok());
            line = start.unwrap_or(0);
        } else if let Some(added) = text.strip_prefix('+') {
            if !added.contains(ALLOWED) {
                let hit = FORMS.iter().find(|(_, form)| form.is_match(added));
                found.extend(hit.map(|(what, _)| Finding { file: file.clone(), line, what }));
            }
            line += 1;
        }
        if found.len() >= MOST {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(line: &str) -> Option<&'static str> {
        let patch = format!("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -0,0 +7,2 @@\n+fine\n+{line}\n");
        let found = findings(&patch);
        assert!(found.iter().all(|one| one.file == "x" && one.line == 8), "{found:?}");
        found.first().map(|one| one.what)
    }

    #[test]
    fn secrets_of_known_forms_are_found_and_others_are_not() {
        assert_eq!(FORMS.len(), 11);
        // Put together here, so that this file itself passes such a scan.
        for (line, what) in [
            (format!("-----BEGIN {} KEY-----", "RSA PRIVATE"), Some("a private key")),
            (format!("-----BEGIN {} KEY-----", "PRIVATE"), Some("a private key")),
            (format!("id: AK{}", "IAIOSFODNN7EXAMPLE"), Some("an AWS access key")),
            (format!("token: gh{}", "p_0123456789012345678901234567890123456789"), Some("a GitHub token")),
            (format!("url: postgres://app:{}@db/x", "s3cretpw"), Some("a password in a URL")),
            (
                format!("{{\"format\":\"coracle.dev/{}\",\"changes\":[{{\"desired\":{{}}}}]}}", "plan/v1"),
                Some("a saved plan, which holds Secrets in plain text"),
            ),
            ("-----BEGIN PUBLIC KEY-----".to_owned(), None),
            ("url: postgres://app:$(PASSWORD)@db/x".to_owned(), None),
            ("password: hunter2".to_owned(), None),
            (format!("id: AK{} # coracle:allow-secret", "IAIOSFODNN7EXAMPLE"), None),
        ] {
            assert_eq!(scanned(&line), what, "{line}");
        }
        let removed = format!("+++ b/x\n@@ -1 +0,0 @@\n-AK{}\n", "IAIOSFODNN7EXAMPLE");
        assert_eq!(findings(&removed), []);
        assert_eq!(findings("+++ b/infra/terraform.tfstate\n@@ -0,0 +1 @@\n+{}\n").len(), 1);
    }
}
