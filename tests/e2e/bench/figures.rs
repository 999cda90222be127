//! Raw figures in a table of the repository, and the goals that they are held against.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

const HEADER: &str = "what\twhose\tround\tvalue\tunit\tdate\tcommit\tmachine";

/// Whose figure it is.
pub const OURS: &str = "kprov";
/// The real kubeadm.
pub const THEIRS: &str = "kubeadm";
/// The real kubeadm, with the manifest of kprov's flannel.
pub const THEIRS_OUR_FLANNEL: &str = "kubeadm, flannel as kprov applies it";

/// One measurement.
#[derive(Debug, Clone)]
struct Figure {
    what: String,
    whose: String,
    round: usize,
    value: f64,
    unit: String,
    /// Date, commit, machine.
    from: String,
}

/// All of them; what is measured anew takes the place of what was there.
pub struct Figures {
    path: PathBuf,
    all: Vec<Figure>,
    /// Date, commit and machine of now.
    from: String,
    anew: Vec<(String, String)>,
}

/// What is wanted of a piece of work.
struct Goal {
    title: &'static str,
    goal: &'static str,
    ours: &'static str,
    /// Beside which figure; none where the goal is a number.
    theirs: Option<(&'static str, &'static str)>,
    /// The greatest ratio, else the greatest value.
    limit: Option<f64>,
}

const GOALS: &[Goal] = &[
    Goal {
        title: "`init`, images there, until it returns",
        goal: "≤ 0.7 ×",
        ours: "init",
        theirs: Some(("init", THEIRS)),
        limit: Some(0.7),
    },
    Goal {
        title: "from the start of `init`, images there, to all system pods Ready; kubeadm's way with flannel as its project applies it",
        goal: "≤ 0.4 ×",
        ours: "all Ready",
        theirs: Some(("all Ready", THEIRS)),
        limit: Some(0.4),
    },
    Goal {
        title: "the same; kubeadm's way with the manifest of kprov's own flannel",
        goal: "",
        ours: "all Ready",
        theirs: Some(("all Ready", THEIRS_OUR_FLANNEL)),
        limit: None,
    },
    Goal {
        title: "worker `join` → Node Ready",
        goal: "≤ 0.6 ×",
        ours: "join",
        theirs: Some(("join", THEIRS)),
        limit: Some(0.6),
    },
    Goal {
        title: "the same; kubeadm's way with the manifest of kprov's own flannel",
        goal: "",
        ours: "join",
        theirs: Some(("join", THEIRS_OUR_FLANNEL)),
        limit: None,
    },
    Goal {
        title: "PKI and kubeconfigs: P-256 beside kubeadm's default, RSA-2048",
        goal: "≤ 0.1 ×",
        ours: "PKI P-256",
        theirs: Some(("PKI RSA-2048", THEIRS)),
        limit: Some(0.1),
    },
    Goal {
        title: "PKI and kubeconfigs: RSA-2048 both",
        goal: "≤ 0.8 ×",
        ours: "PKI RSA-2048",
        theirs: Some(("PKI RSA-2048", THEIRS)),
        limit: Some(0.8),
    },
    Goal { title: "`version`", goal: "≤ 5 ms", ours: "version", theirs: Some(("version", THEIRS)), limit: Some(5.0) },
    Goal {
        title: "most memory of `version`",
        goal: "≤ 10 MB",
        ours: "version, memory",
        theirs: Some(("version, memory", THEIRS)),
        limit: Some(10.0),
    },
    Goal {
        title: "`kprov up`, two machines, caches warm, to all Ready",
        goal: "≤ 25 s",
        ours: "up",
        theirs: None,
        limit: Some(25.0),
    },
    Goal {
        title: "memory of an idle control plane, one of each looked at five times; kubeadm's with separate programs",
        goal: "≤ 1.1 ×",
        ours: "memory, control plane",
        theirs: Some(("memory, control plane", THEIRS)),
        limit: Some(1.1),
    },
    Goal {
        title: "memory of an idle worker, one of each looked at five times; kubeadm's with separate programs",
        goal: "≤ 1.1 ×",
        ours: "memory, worker",
        theirs: Some(("memory, worker", THEIRS)),
        limit: Some(1.1),
    },
];

impl Goal {
    /// Goals in ratios end with `×`.
    fn is_ratio(&self) -> bool {
        self.goal.is_empty() || self.goal.ends_with('×')
    }
}

impl Figures {
    /// Opens the table.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn open(path: &Path, from: String) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        let text = if path.exists() { std::fs::read_to_string(path)? } else { String::new() };
        for line in text.lines().skip(1) {
            let cells: Vec<&str> = line.splitn(6, '\t').collect();
            let [what, whose, round, value, unit, from] = cells[..] else {
                anyhow::bail!("{}: {line}", path.display())
            };
            let (round, value) = (round.parse()?, value.parse()?);
            let own = |text: &str| text.to_owned();
            all.push(Figure { what: own(what), whose: own(whose), round, value, unit: own(unit), from: own(from) });
        }
        Ok(Self { path: path.to_owned(), all, from, anew: Vec::new() })
    }

    /// Notes one.
    pub fn add(&mut self, what: &str, whose: &str, value: f64, unit: &str) {
        let key = (what.to_owned(), whose.to_owned());
        if !self.anew.contains(&key) {
            self.all.retain(|figure| figure.what != what || figure.whose != whose);
            self.anew.push(key);
        }
        let round = self.of(what, whose).len() + 1;
        let unit = unit.to_owned();
        let (what, whose) = (what.to_owned(), whose.to_owned());
        self.all.push(Figure { what, whose, round, value, unit, from: self.from.clone() });
    }

    fn of(&self, what: &str, whose: &str) -> Vec<&Figure> {
        self.all.iter().filter(|figure| figure.what == what && figure.whose == whose).collect()
    }

    /// Median, smallest, greatest.
    fn spread(&self, what: &str, whose: &str) -> Option<(f64, f64, f64)> {
        let mut values: Vec<f64> = self.of(what, whose).iter().map(|figure| figure.value).collect();
        values.sort_by(f64::total_cmp);
        Some((median(&values)?, *values.first()?, *values.last()?))
    }

    /// Which round's value is the median.
    pub fn typical(&self, what: &str, whose: &str) -> Option<usize> {
        let mut found = self.of(what, whose);
        found.sort_by(|a, b| a.value.total_cmp(&b.value));
        found.get(found.len() / 2).map(|figure| figure.round)
    }

    /// Writes the table.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> anyhow::Result<()> {
        let mut text = format!("{HEADER}\n");
        for Figure { what, whose, round, value, unit, from } in &self.all {
            writeln!(text, "{what}\t{whose}\t{round}\t{value:.4}\t{unit}\t{from}")?;
        }
        std::fs::write(&self.path, text).with_context(|| format!("writing {}", self.path.display()))
    }

    /// The table of goals, and where its figures come from.
    pub fn report(&self) -> String {
        let mut text = String::from("| work | goal | kprov | kubeadm | ratio | |\n|---|---|---|---|---|---|\n");
        let cell = |what: &str, whose: &str| {
            let figures = self.of(what, whose);
            let unit = figures.first().map_or("", |figure| figure.unit.as_str());
            let digits = if unit == "MB" && self.spread(what, whose).is_some_and(|s| s.0 > 50.0) { 0 } else { 2 };
            self.spread(what, whose).map_or_else(String::new, |(median, least, most)| {
                format!("**{median:.digits$} {unit}** ({least:.digits$}-{most:.digits$}, {})", figures.len())
            })
        };
        for goal in GOALS {
            let ours = self.spread(goal.ours, OURS).map(|spread| spread.0);
            let theirs = goal.theirs.and_then(|(what, whose)| Some(self.spread(what, whose)?.0));
            let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
            let reached = if goal.is_ratio() { ratio } else { ours };
            let verdict = match (reached, goal.limit) {
                (Some(reached), Some(limit)) if reached <= limit => "met",
                (Some(_), Some(_)) => "**missed**",
                (None, Some(_)) => "not measured",
                (_, None) => "",
            };
            let theirs = goal.theirs.map(|(what, whose)| cell(what, whose)).unwrap_or_default();
            let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {theirs} | {ratio} | {verdict} |",
                goal.title,
                goal.goal,
                cell(goal.ours, OURS)
            );
        }
        text.push_str("\nMedians (least-most, number of measurements).\n");
        let mut sources: Vec<(&str, Vec<&str>)> = Vec::new();
        for figure in &self.all {
            let what = figure.what.split(": ").next().unwrap_or_default();
            match sources.iter_mut().find(|(from, _)| *from == figure.from) {
                Some((_, whats)) if whats.contains(&what) => {}
                Some((_, whats)) => whats.push(what),
                None => sources.push((&figure.from, vec![what])),
            }
        }
        for (from, whats) in sources {
            let _ = writeln!(text, "\n- {}: {}", from.replace('\t', ", "), whats.join("; "));
        }
        text
    }

    /// The parts of a sum (`memory, worker: kubelet`), greatest first, ours beside theirs.
    pub fn parts(&self, what: &str) -> String {
        let prefix = format!("{what}: ");
        let mut names: Vec<&str> = self.all.iter().filter_map(|figure| figure.what.strip_prefix(&prefix)).collect();
        names.sort_unstable();
        names.dedup();
        let value = |name: &str, whose: &str| self.spread(&format!("{prefix}{name}"), whose).map_or(0.0, |s| s.0);
        names.sort_by(|a, b| value(b, OURS).total_cmp(&value(a, OURS)));
        let mut text = format!("| {what} | kprov | kubeadm, separate programs |\n|---|---|---|\n");
        for name in names {
            let _ = writeln!(text, "| {name} | {:.0} MB | {:.0} MB |", value(name, OURS), value(name, THEIRS));
        }
        text
    }
}

/// Of sorted values.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some(f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, upper)) }
}

/// Puts a text between two marks of a document.
///
/// # Errors
/// When the document lacks them.
pub fn fill(path: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let all = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let (begin, end) = (format!("<!-- {name}: written by make bench -->\n"), format!("<!-- end of {name} -->"));
    let from = all.find(&begin).map(|at| at + begin.len());
    let to = all.find(&end);
    ensure!(from.is_some() && to >= from, "no marks for {name} in {}", path.display());
    let (before, after) = (&all[..from.unwrap_or(0)], &all[to.unwrap_or(0)..]);
    Ok(std::fs::write(path, format!("{before}\n{text}\n{after}"))?)
}
