//! Events as plain lines, one each, for pipes and logs.

use kprov_providers::Event;
use kprov_providers::event::{State, Type};

/// The line of an event; none for those that only matter to bars.
pub(super) fn line(event: &Event) -> Option<String> {
    let message = &event.message;
    match event.kind {
        Type::Step => {
            let phase = event.phase.as_deref().unwrap_or_default();
            let seconds = event.seconds.map(|s| format!(" ({s:.1} s)")).unwrap_or_default();
            let word = match event.state? {
                State::Start | State::Ready => return None,
                State::Done => return Some(format!("[{phase}] {message}{seconds}")),
                State::Missing => "would do",
                State::Differs => "would change",
                // Logs and causes come once, with the command's end.
                State::Failed => return Some(format!("[{phase}] failed: {}{seconds}", first(message))),
                State::Skipped => "not tried",
                State::Undone => "took back",
            };
            Some(format!("[{phase}] {word}: {message}{seconds}"))
        }
        Type::Progress => match event.phase.as_deref() {
            Some(phase) if !phase.is_empty() => Some(format!("[{phase}] {message}")),
            _ => Some(message.clone()),
        },
        Type::Note => Some(message.clone()),
        Type::Warning => Some(format!("warning: {message}")),
        Type::Error => Some(format!("error: {message}")),
        Type::Result => None,
    }
}

fn first(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_steps_are_lines_and_started_ones_are_not() {
        let event = Event::new(Type::Step, "write /etc/x").about("x", "certs");
        assert_eq!(line(&event.clone().state(State::Start)), None);
        assert_eq!(
            line(&event.clone().state(State::Done).seconds(1.26)).as_deref(),
            Some("[certs] write /etc/x (1.3 s)")
        );
        let failed = Event { message: "write /etc/x: full\nlast lines of x:".to_owned(), ..event }.state(State::Failed);
        assert_eq!(line(&failed).as_deref(), Some("[certs] failed: write /etc/x: full"));
    }
}
