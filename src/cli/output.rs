//! Results on stdout, progress and messages on stderr: text, JSON or YAML.

mod bars;
mod lines;

use std::io::{IsTerminal as _, Write as _};

use kprov_providers::Event;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::error::{Failure, Result};

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON value; on commands that act, one JSON object a line for every event.
    Json,
    /// One YAML document.
    Yaml,
}

/// Writes to stdout. A reader that went away (`| head`) is no error of ours.
pub fn stdout(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Writes a line to stderr.
pub fn stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes a value in the asked format; `text` makes the form for people (with its line ends).
///
/// # Errors
/// When the value cannot be serialised (a bug).
pub fn value<T: Serialize>(format: Format, value: &T, text: impl FnOnce(&T) -> String) -> Result {
    match format {
        Format::Text => stdout(&text(value)),
        Format::Json => {
            stdout(&(serde_json::to_string_pretty(value).map_err(Failure::internal)? + "\n"));
        }
        Format::Yaml => stdout(&crate::yaml::to_string(value).map_err(Failure::internal)?),
    }
    Ok(())
}

/// Columns as kubectl prints them: padded to the widest cell, three spaces apart, headers in capitals.
pub fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}   ", width = *width));
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(header.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// Whoever draws the events of a running command.
pub struct Reader {
    task: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Reader {
    /// Draws what was sent so far and ends.
    pub async fn end(self) {
        // A reader that ended by itself (all senders gone) is at its end too.
        let _ = self.end.send(());
        let _ = self.task.await;
    }
}

/// Draws events from now on: bars on a terminal, plain lines in a pipe, NDJSON with `-o json`.
pub fn follow(format: Format, mut events: UnboundedReceiver<Event>) -> Reader {
    let (end, mut ended) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut pen = Pen::new(format);
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => pen.draw(&event),
                    None => break,
                },
                _ = &mut ended => break,
            }
        }
        while let Ok(event) = events.try_recv() {
            pen.draw(&event);
        }
        pen.end();
    });
    Reader { task, end }
}

/// How events are drawn.
enum Pen {
    Json,
    Bars(bars::Bars),
    Lines,
}

impl Pen {
    fn new(format: Format) -> Self {
        match format {
            Format::Json => Self::Json,
            _ if std::io::stderr().is_terminal() => Self::Bars(bars::Bars::new()),
            _ => Self::Lines,
        }
    }

    fn draw(&mut self, event: &Event) {
        match self {
            Self::Json => {
                if let Ok(line) = serde_json::to_string(event) {
                    stdout(&(line + "\n"));
                }
            }
            Self::Bars(bars) => bars.show(event),
            Self::Lines => {
                if let Some(line) = lines::line(event) {
                    stderr(&line);
                }
            }
        }
    }

    fn end(self) {
        if let Self::Bars(bars) = self {
            bars.end();
        }
    }
}

/// The last line of a command that acts: with `-o json` an event of type `result` with these fields, with `-o yaml`
/// the fields alone, else `text` on stdout.
///
/// # Errors
/// When the fields cannot be serialised (a bug).
pub fn result(format: Format, fields: Map<String, Value>, text: &str) -> Result {
    match format {
        Format::Text => stdout(text),
        Format::Yaml => stdout(&crate::yaml::to_string(&fields).map_err(Failure::internal)?),
        Format::Json => stdout(&(result_line("done", "", fields)? + "\n")),
    }
    Ok(())
}

/// The last line of a command that failed, for `-o json`.
///
/// # Errors
/// When it cannot be serialised (a bug).
pub fn failed(format: Format, failure: &Failure) -> Result {
    if format == Format::Json {
        let mut fields = Map::new();
        fields.insert("exitCode".into(), failure.kind.code().into());
        fields.insert("hints".into(), failure.hints.clone().into());
        stdout(&(result_line("failed", &format!("{:#}", failure.error), fields)? + "\n"));
    }
    Ok(())
}

fn result_line(state: &str, message: &str, fields: Map<String, Value>) -> Result<String> {
    let mut line = Map::new();
    line.insert("v".into(), kprov_providers::event::FORMAT.into());
    line.insert("time".into(), kprov_providers::event::now().into());
    line.insert("type".into(), "result".into());
    line.insert("state".into(), state.into());
    line.insert("message".into(), message.into());
    line.extend(fields);
    serde_json::to_string(&Value::Object(line)).map_err(Failure::internal)
}

/// Asks on a terminal; without one the answer is the usage error that names the flag that consents.
///
/// # Errors
/// [`Kind::Usage`](super::error::Kind::Usage) when there is nobody to ask.
pub fn consent(question: &str, flag: &str) -> Result<bool> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(Failure::usage(format!("{question} needs consent, and there is no terminal to ask on"))
            .hint(format!("give {flag}")));
    }
    dialoguer::Confirm::new()
        .with_prompt(question)
        .default(false)
        .interact()
        .map_err(|error| Failure::user(anyhow::anyhow!(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_padded_to_the_widest_cell() {
        let rows = vec![vec!["kprov-cp-1".into(), "Ready".into()], vec!["x".into(), "NotReady".into()]];
        assert_eq!(
            columns(&["NAME", "STATUS"], &rows),
            "NAME         STATUS\nkprov-cp-1   Ready\nx            NotReady\n"
        );
    }

    #[test]
    fn a_failed_result_line_has_the_exit_code_and_no_other_shape() {
        let line = result_line("failed", "no", Map::new()).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["type"], "result");
        assert_eq!(value["v"], 1);
    }
}
