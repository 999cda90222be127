//! Where the time goes, drawn: a row a phase, kprov's above kubeadm's, on one scale.

use std::fmt::Write as _;

use super::figures::{OURS, THEIRS};
use super::timeline::Span;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 190.0;
const ROW: f64 = 18.0;

/// A cluster of one way: what happened, when `init` returned, when all was Ready.
pub struct Shown<'a> {
    /// Title.
    pub title: &'a str,
    /// Whose.
    pub whose: &'a str,
    /// What happened.
    pub spans: &'a [Span],
    /// Seconds until `init` returned.
    pub init: f64,
    /// Seconds until all was Ready.
    pub ready: f64,
}

/// The picture: both inits on a scale of their own, then both ways until all is Ready.
pub fn draw(shown: &[Shown<'_>]) -> String {
    let mut body = String::new();
    let mut y = 24.0;
    let longest = shown.iter().map(|one| one.init).fold(0.0, f64::max);
    for one in shown {
        y = init(&mut body, one, longest, y);
    }
    let longest = shown.iter().map(|one| one.ready).fold(0.0, f64::max);
    for one in shown {
        y = whole(&mut body, one, longest, y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{y}\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn colour(whose: &str) -> &'static str {
    match whose {
        OURS => "#2a7a4b",
        THEIRS => "#b5651d",
        _ => "#888888",
    }
}

fn at(seconds: f64, longest: f64) -> f64 {
    LEFT + seconds / longest * (WIDTH - LEFT - 60.0)
}

fn text(body: &mut String, x: f64, y: f64, text: &str) {
    let safe = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(body, "<text x=\"{x:.0}\" y=\"{y:.0}\">{safe}</text>");
}

fn bar(body: &mut String, span: &Span, longest: f64, y: f64) {
    let (from, to) = (at(span.from, longest), at(span.to, longest));
    let width = (to - from).max(1.5);
    let _ = writeln!(
        body,
        "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.0}\" fill=\"{}\" fill-opacity=\"0.55\"><title>{}: {:.2}-{:.2} s</title></rect>",
        y - ROW + 6.0,
        ROW - 6.0,
        colour(&span.whose),
        span.name.replace('&', "&amp;").replace('<', "&lt;"),
        span.from,
        span.to
    );
}

/// Lines at whole seconds, from `top` to `bottom`.
fn grid(body: &mut String, longest: f64, step: usize, top: f64, bottom: f64) {
    let mut second = 0;
    while second as f64 <= longest {
        let x = at(second as f64, longest);
        let _ =
            writeln!(body, "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#dddddd\"/>");
        text(body, x - 3.0, bottom + 12.0, &second.to_string());
        second += step;
    }
}

fn init(body: &mut String, one: &Shown<'_>, longest: f64, mut y: f64) -> f64 {
    let inside: Vec<&Span> = one.spans.iter().filter(|span| span.phase != "pods" && span.from < one.init).collect();
    let mut phases: Vec<&str> = Vec::new();
    let mut sorted = inside.clone();
    sorted.sort_by(|a, b| a.from.total_cmp(&b.from));
    for span in &sorted {
        if !phases.contains(&span.phase.as_str()) {
            phases.push(&span.phase);
        }
    }
    text(body, 8.0, y, &format!("{}: {:.1} s until it returns", one.title, one.init));
    y += 6.0;
    let bottom = y + phases.len() as f64 * ROW + 2.0;
    grid(body, longest, 1, y, bottom);
    for phase in phases {
        y += ROW;
        text(body, 20.0, y, phase);
        inside.iter().filter(|span| span.phase == phase).for_each(|span| bar(body, span, longest, y));
    }
    bottom + 40.0
}

fn whole(body: &mut String, one: &Shown<'_>, longest: f64, mut y: f64) -> f64 {
    text(body, 8.0, y, &format!("{}: {:.1} s until all system pods are Ready", one.title, one.ready));
    let pods: Vec<&Span> = one.spans.iter().filter(|span| span.phase == "pods").collect();
    let top = y + 6.0;
    let bottom = top + (pods.len() + 1) as f64 * ROW + 2.0;
    grid(body, longest, if longest > 30.0 { 5 } else { 1 }, top, bottom);
    y = top + ROW;
    text(body, 20.0, y, "init");
    bar(body, &Span::new(one.whose, "init", "init", 0.0, one.init), longest, y);
    for pod in pods {
        y += ROW;
        text(body, 20.0, y, &pod.name);
        bar(body, pod, longest, y);
    }
    bottom + 40.0
}
