//! The logs of all Pods, each line with its Pod's name before it.

use crate::colour;
use crate::commands::say;

/// Prints lines as they come until the node ends; on stderr where stdout belongs to a script.
pub(crate) async fn logs(mut lines: node::Lines, to_stderr: bool) {
    while let Some(line) = lines.next().await {
        let text = match line {
            Ok(line) => {
                let name = format!("{}/{}", line.pod, line.container);
                format!(
                    "{} {}",
                    colour::by_name(&line.container, &format!("{name} |"), to_stderr),
                    String::from_utf8_lossy(&line.text)
                )
            }
            Err(node::Lagged(lost)) => format!("… {lost} lines not shown here; `coracle logs POD` has them"),
        };
        if to_stderr { eprintln!("{text}") } else { say(&text) }
    }
}
