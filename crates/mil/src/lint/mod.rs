//! The linter: what the engine rule catalogue says about a program before any compiler sees it.
//!
//! A rule is data: an id, a statement, how its breach shows, where it was seen, and a check. [`rules`] lists
//! them; [`Program::lint`] runs what applies to a chip and a route over the program in primitive ops,
//! [`Plan::lint`] over what a driver is about to do with one.
//! Ids `ANE-nnn` are those of the catalogue of facts that the project keeps; ids with words stand for lines of
//! its tables that have no number. A finding from one chip is applied to the others of its route for which
//! nothing else is reported; findings that contradict one another are warnings with both sources.
//!
//! ```
//! use mil::lint::{Chip, Route, Severity};
//! use mil::{Builder, Element, Op};
//!
//! let mut b = Builder::new(Element::F16);
//! let x = b.input("x", &[1, 64, 1, 512])?;
//! let sum = b.push1(Op::ReduceSum { axes: vec![3], keep_dims: true }, &[x])?;
//! b.output("y", sum)?;
//! let findings = b.finish()?.lint(Chip::M4, Route::Ane);
//! assert!(findings.iter().any(|f| f.rule == "ANE-058" && f.severity == Severity::Warning));
//! # Ok::<(), mil::Error>(())
//! ```

use std::fmt;

use crate::{ConstData, Op, Program, Stmt, TensorType, ValueId};

mod forms;
mod numerics;
mod plan;
mod process;
mod shapes;

pub use plan::{MAX_PROGRAMS, Plan, Slot};

const EVERY_CHIP: &[Chip] = &Chip::ALL;
const M1_ONLY: &[Chip] = &[Chip::M1];
const M1_M2: &[Chip] = &[Chip::M1, Chip::M2];
const M1_M3: &[Chip] = &[Chip::M1, Chip::M2, Chip::M3];
const M3_ONLY: &[Chip] = &[Chip::M3];
const M3_ON: &[Chip] = &[Chip::M3, Chip::M4, Chip::M5];
const M4_ON: &[Chip] = &[Chip::M4, Chip::M5];

/// The whole catalogue.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    [process::RULES, plan::RULES, shapes::RULES, forms::RULES, numerics::RULES].into_iter().flatten()
}

/// The rule of this id.
pub fn rule(id: &str) -> Option<&'static Rule> {
    rules().find(|rule| rule.id == id)
}

/// Where something was found, and what.
type Findings = Vec<(Place, String)>;

/// A generation of Apple Silicon. M(n) carries engine H(n + 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chip {
    /// Engine H13.
    M1,
    /// Engine H14.
    M2,
    /// Engine H15.
    M3,
    /// Engine H16.
    M4,
    /// Engine H17s.
    M5,
}

impl Chip {
    /// All of them, oldest first.
    pub const ALL: [Chip; 5] = [Chip::M1, Chip::M2, Chip::M3, Chip::M4, Chip::M5];
}

/// A way to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// Espresso's `e5rt` interface: ports by name, of any size.
    Ane,
    /// `_ANEInMemoryModel`: packed surfaces.
    AneInMem,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Runs, but slower or less exactly than one might think, or wrong for some values.
    Warning,
    /// Refused by the compiler, or wrong results.
    Error,
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The program as a whole.
    Program,
    /// The port of this name.
    Port(String),
    /// A statement of the program in primitive ops.
    Statement {
        /// Its position.
        index: usize,
        /// MIL's name of the op.
        op: &'static str,
        /// The name of its first result.
        result: String,
    },
}

/// Something that a rule says about a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whose it is.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What was found, with values.
    pub message: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity} {}: ", self.rule)?;
        match &self.place {
            Place::Program => write!(f, "program")?,
            Place::Port(name) => write!(f, "port `{name}`")?,
            Place::Statement { index, op, result } => {
                write!(f, "statement {index}, `{result}` = {op}")?;
            }
        }
        write!(f, ": {}; {}", self.message, self.remedy)
    }
}

/// An entry of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its name.
    pub id: &'static str,
    /// What holds.
    pub statement: &'static str,
    /// What happens where it does not.
    pub symptom: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// Which project found it, on what.
    pub source: &'static str,
    /// Where it applies, and how bad it is there.
    pub routes: &'static [(Route, Severity)],
    /// Where it applies.
    pub chips: &'static [Chip],
    /// How it is checked.
    pub check: Check,
}

/// How a rule is checked.
#[derive(Debug, Clone, Copy)]
pub enum Check {
    /// By looking at a program.
    Program(fn(&Subject<'_>) -> Vec<(Place, String)>),
    /// By looking at what a driver is about to do with one.
    Plan(fn(&Plan<'_>) -> Vec<(Place, String)>),
    /// It is about calls; this says how the drivers keep it.
    Driver(&'static str),
    /// No [`Program`] can break it, or only its values do; this says why.
    Always(&'static str),
}

/// What a check looks at: a program in primitive ops, and for whom.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Without composites.
    pub program: &'a Program,
    /// On which chip it shall run.
    pub chip: Chip,
    /// By which route.
    pub route: Route,
    /// For each value the statement that makes it.
    producers: Vec<Option<usize>>,
}

impl Subject<'_> {
    fn ty(&self, id: ValueId) -> &TensorType {
        self.program.ty(id)
    }

    /// The statement that makes a value; `None` for an input.
    fn producer(&self, id: ValueId) -> Option<&Stmt> {
        self.producers[id.index()].map(|index| &self.program.stmts()[index])
    }

    /// Where a value is made: its port or its statement.
    fn place_of(&self, id: ValueId) -> Place {
        match self.producers[id.index()] {
            Some(index) => self.place(index),
            None => Place::Port(self.program.value(id).name.clone()),
        }
    }

    fn place(&self, index: usize) -> Place {
        let stmt = &self.program.stmts()[index];
        let result = self.program.value(stmt.results[0]).name.clone();
        Place::Statement { index, op: stmt.op.name(), result }
    }

    /// Every input, then every result in order.
    fn values(&self) -> impl Iterator<Item = ValueId> {
        let results = self.program.stmts().iter().flat_map(|stmt| &stmt.results);
        self.program.inputs().iter().chain(results).copied()
    }

    fn is_constant(&self, id: ValueId) -> bool {
        self.producer(id).is_some_and(|producer| matches!(producer.op, Op::Const(_)))
    }

    /// Whether a value is a constant that is kept as int8.
    fn is_quantized(&self, id: ValueId) -> bool {
        self.producer(id).is_some_and(|producer| {
            matches!(&producer.op, Op::Const(constant) if matches!(constant.data, ConstData::Affine(_)))
        })
    }

    /// What `check` has to say about each statement.
    fn each(&self, check: impl Fn(&Stmt) -> Option<String>) -> Findings {
        let stmts = self.program.stmts().iter().enumerate();
        stmts.filter_map(|(index, stmt)| Some((self.place(index), check(stmt)?))).collect()
    }

    /// What `check` has to say about rows, contraction and columns of each matmul.
    fn each_matmul(&self, check: impl Fn([(&'static str, usize); 3]) -> Option<String>) -> Findings {
        self.each(|stmt| {
            let Op::Matmul { transpose_x, .. } = stmt.op else {
                return None;
            };
            let x = &self.ty(stmt.args[0]).shape;
            let z = &self.ty(stmt.results[0]).shape;
            let contraction = x[x.len() - if transpose_x { 2 } else { 1 }];
            check([("rows", z[z.len() - 2]), ("contraction", contraction), ("columns", z[z.len() - 1])])
        })
    }
}

/// On which chips a route does not work whatever the program, and by which rules.
const UNSUPPORTED: [(Route, Chip, &[&str]); 2] = [
    // The packed layout is made of what fails there.
    (Route::AneInMem, Chip::M1, &["ANE-040", "ANE-054"]),
    // Nobody ran it on M2; its slices of the last axis, which are the packed layout, bend values as on M1.
    (Route::AneInMem, Chip::M2, &["ANE-054"]),
];

/// The rules that speak against `route` on `chip` altogether; none where it works.
pub fn against(chip: Chip, route: Route) -> impl Iterator<Item = &'static Rule> {
    let ids =
        UNSUPPORTED.iter().filter(move |(r, c, _)| (*r, *c) == (route, chip)).flat_map(|(.., ids)| *ids);
    ids.filter_map(|id| rule(id))
}

impl Program {
    /// What the catalogue says about this program on `chip` by `route`, worst first.
    pub fn lint(&self, chip: Chip, route: Route) -> Vec<Finding> {
        // A composite that does not decompose would be a bug that its own tests find.
        let expanded = self.expand_all();
        let program = expanded.as_ref().unwrap_or(self);
        let subject = Subject { program, chip, route, producers: program.producers() };
        findings_of(chip, route, |check| match check {
            Check::Program(check) => check(&subject),
            _ => Vec::new(),
        })
    }
}

/// What the rules of a chip and a route find by `run`, worst first.
fn findings_of(chip: Chip, route: Route, run: impl Fn(&Check) -> Findings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in rules().filter(|rule| rule.chips.contains(&chip)) {
        let Some((_, severity)) = rule.routes.iter().find(|(r, _)| *r == route) else {
            continue;
        };
        findings.extend(run(&rule.check).into_iter().map(|(place, message)| Finding {
            rule: rule.id,
            severity: *severity,
            place,
            message,
            remedy: rule.remedy,
        }));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_does_not_work_is_spoken_against_by_rules_that_exist() {
        for (route, chip, ids) in UNSUPPORTED {
            assert_eq!(against(chip, route).map(|rule| rule.id).collect::<Vec<_>>(), ids);
        }
        for chip in Chip::ALL {
            assert_eq!(against(chip, Route::Ane).count(), 0);
            assert_eq!(against(chip, Route::AneInMem).count() == 0, chip >= Chip::M3, "{chip:?}");
        }
    }
}
