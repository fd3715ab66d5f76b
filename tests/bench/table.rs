//! The rows, and the arithmetic that all sections share.

/// One row: what was measured, its figure, what it stands beside, and the goal.
struct Row {
    what: String,
    figure: String,
    beside: String,
    ratio: Option<f64>,
    goal: String,
    reached: Option<bool>,
}

#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

/// Which way a goal bounds.
#[derive(Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
    None,
}

impl Goal {
    fn reached(self, value: f64) -> Option<bool> {
        match self {
            Goal::AtMost(limit) => Some(value <= limit),
            Goal::AtLeast(limit) => Some(value >= limit),
            Goal::None => None,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Goal::AtMost(limit) => format!("<= {limit}{unit}"),
            Goal::AtLeast(limit) => format!(">= {limit}{unit}"),
            Goal::None => String::new(),
        }
    }
}

impl Table {
    /// A figure beside another of the same kind; the goal is about their ratio.
    pub fn ratio(&mut self, what: &str, unit: &str, figure: f64, beside: (&str, f64), goal: Goal) {
        let ratio = figure / beside.1;
        self.push(Row {
            what: what.to_owned(),
            figure: format!("{figure:.1} {unit}"),
            beside: format!("{} {:.1} {unit}", beside.0, beside.1),
            ratio: Some(ratio),
            goal: goal.text(" x"),
            reached: goal.reached(ratio),
        });
    }

    /// A figure with a goal of its own.
    pub fn figure(&mut self, what: &str, unit: &str, figure: f64, goal: Goal) {
        self.push(Row {
            what: what.to_owned(),
            figure: format!("{figure:.2} {unit}"),
            beside: String::new(),
            ratio: None,
            goal: goal.text(&format!(" {unit}")),
            reached: goal.reached(figure),
        });
    }

    fn push(&mut self, row: Row) {
        // Seen while the rest is still being measured.
        eprintln!("{:<58} {:>14}  {}", row.what, row.figure, row.beside);
        self.rows.push(row);
    }

    /// Prints it as Markdown, so that it can stand in `docs/performance.md` as it is.
    pub fn print(&self) {
        println!("| what | here | beside | ratio | goal | |");
        println!("|---|---|---|---|---|---|");
        for row in &self.rows {
            let ratio = row.ratio.map(|r| format!("{r:.2}")).unwrap_or_default();
            let mark = match row.reached {
                Some(true) => "reached",
                Some(false) => "missed",
                None => "",
            };
            println!("| {} | {} | {} | {ratio} | {} | {mark} |", row.what, row.figure, row.beside, row.goal);
        }
    }
}

/// The middle value; 0 for none.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

pub fn percentile(values: &[f64], share: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() * share / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(0.0)
}
