//! Expansion of `$(VAR)` references in commands, arguments and environment values, as Kubernetes does it.
//!
//! Invariants: an unknown variable stays as written; `$$` is an escaped `$`, so that `$$(VAR)` gives `$(VAR)`;
//! nothing else is special. One pass: a value that was put in is never expanded again.
//! Must not know: where variables come from.

/// Replaces each `$(NAME)` in `input` for which `lookup` knows a value.
///
/// ```
/// let expanded = rules::expand::expand("$(A)/$$(A)/$(B)", &|name| (name == "A").then(|| "x".to_owned()));
/// assert_eq!(expanded, "x/$(A)/$(B)");
/// ```
pub fn expand(input: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            output.push('$');
            rest = tail;
        } else if let Some(open) = after.strip_prefix('(') {
            if let Some(end) = open.find(')') {
                let name = &open[..end];
                match lookup(name) {
                    Some(value) => output.push_str(&value),
                    None => {
                        output.push_str("$(");
                        output.push_str(name);
                        output.push(')');
                    }
                }
                rest = &open[end + 1..];
            } else {
                // A reference that is never closed is plain text.
                output.push_str("$(");
                rest = open;
            }
        } else {
            output.push('$');
            rest = after;
        }
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn as_kubernetes_does() {
        let lookup = |name: &str| match name {
            "VAR_A" => Some("A".to_owned()),
            "VAR_B" => Some("B".to_owned()),
            "VAR_REF" => Some("$(VAR_A)".to_owned()),
            "VAR_EMPTY" => Some(String::new()),
            _ => None,
        };
        for (input, wanted) in [
            ("", ""),
            ("plain", "plain"),
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)$(VAR_B)", "AB"),
            ("$(VAR_EMPTY)", ""),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("f$$oo$(VAR_A)", "f$ooA"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$(VAR_A)", "$$(VAR_A)"),
            ("$(UNKNOWN)-$(VAR_A)", "$(UNKNOWN)-A"),
            ("$VAR_A", "$VAR_A"),
            ("$(VAR_A", "$(VAR_A"),
            ("$(VAR_A$(VAR_B)", "$(VAR_A$(VAR_B)"),
            ("trailing$", "trailing$"),
            ("$)", "$)"),
            ("é$(VAR_A)é", "éAé"),
        ] {
            assert_eq!(expand(input, &lookup), wanted, "{input}");
        }
    }
}
