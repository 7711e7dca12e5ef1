//! `$(VAR)` in values, commands and arguments, as Kubernetes expands it.

/// Replaces `$(NAME)` by what `lookup` gives; an unknown name stays as written, and `$$` is one `$` that expands nothing.
pub(crate) fn expand(input: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        if let Some(after) = behind.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = behind.strip_prefix('(').and_then(|b| b.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = behind;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_upstream() {
        let lookup = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "B" => Some("$(A)".to_owned()),
            _ => None,
        };
        for (input, expected) in [
            ("x$(A)y", "xoney"),
            ("$(A)$(A)", "oneone"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$one"),
            ("$$$$(A)", "$$(A)"),
            ("$(B)", "$(A)"),
            ("$(NO)", "$(NO)"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("", ""),
        ] {
            assert_eq!(expand(input, &lookup), expected, "{input}");
        }
    }
}
