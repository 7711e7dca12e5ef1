//! Folded text (`>`) as it is after Kustomize wrote it out and read it back, which it does once on the way.
//!
//! Its writer doubles every line break but those after an indented line, also where the next line is indented and the break
//! would have been kept anyway. Texts with indented lines, and texts that keep more than one break at their end, come out
//! longer than they went in. What everybody's results have is what is wanted.
//!
//! Invariants: text without indented lines and with at most one break at its end is unchanged. It must not know: YAML's other
//! forms.

/// The text after it went out and in again.
pub(super) fn again(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    let doubles = !matches!(first, ' ' | '\t');
    let end = text.trim_end_matches('\n');
    read(&written(text, doubles), text.len() - end.len())
}

/// The lines that are written.
fn written(text: &str, doubles: bool) -> String {
    let mut out = String::new();
    let (mut breaks, mut indented) = (true, true);
    for c in text.chars() {
        if c == '\n' {
            if !breaks && !indented && doubles {
                out.push('\n');
            }
            breaks = true;
        } else {
            if breaks {
                indented = matches!(c, ' ' | '\t');
            }
            breaks = false;
        }
        out.push(c);
    }
    out
}

/// Folded lines read; `ending` is how many breaks the text ended in, which decides what is kept at the end.
fn read(lines: &str, ending: usize) -> String {
    let mut out = String::new();
    let (mut first_break, mut more_breaks) = (false, String::new());
    let mut before_indented = false;
    for line in lines.split_inclusive('\n') {
        let content = line.strip_suffix('\n').unwrap_or(line);
        if content.is_empty() {
            more_breaks.push('\n');
            continue;
        }
        let indented = content.starts_with([' ', '\t']);
        if first_break {
            let folds = !before_indented && !indented;
            match (folds, more_breaks.is_empty()) {
                (true, true) => out.push(' '),
                (true, false) => {}
                (false, _) => out.push('\n'),
            }
        }
        out.push_str(&more_breaks);
        more_breaks.clear();
        before_indented = indented;
        out.push_str(content);
        first_break = line.ends_with('\n');
    }
    if ending > 0 && first_break {
        out.push('\n');
    }
    if ending > 1 {
        out.push_str(&more_breaks);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_as_everybody_has_it() {
        let cases = [
            ("one two\n", "one two\n"),
            ("one\ntwo\n\nthree", "one\ntwo\n\nthree"),
            ("three\n more\n", "three\n\n more\n"),
            (" more\nafter\n", " more\nafter\n"),
            ("end\n\n", "end\n\n\n"),
        ];
        for (text, wanted) in cases {
            assert_eq!(again(text), wanted, "{text:?}");
        }
    }
}
