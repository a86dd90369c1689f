//! What a driver is about to do with a program, and the rules about that: slots, surfaces, blob files, numbers of
//! programs.

use super::Route::{Ane, AneInMem};
use super::Severity::{Error, Warning};
use super::{Check, Chip, EVERY_CHIP, Finding, Findings, M1_ONLY, M3_ON, Place, Route, Rule, findings_of};
use crate::blob;
use crate::text::Written;

/// The most programs that a process plans to compile in memory, and to load: compiling fails after about 119
/// (maderix/ANE, Orion), loading from 128 on (ANEForge), and some room is left.
pub const MAX_PROGRAMS: usize = 100;
/// How many programs a process can have loaded (ANEForge).
const MAX_LOADED: usize = 128;
/// The smallest surface (Orion: `[768, 16]` halves).
const MIN_SURFACE_BYTES: usize = 49_152;
/// The narrowest (ane crate).
const MIN_COLUMNS: usize = 64;
/// Outputs that are this many times smaller than the inputs are much smaller. No number is reported; the kernels
/// that failed had weight gradients beside activations.
const MUCH_SMALLER: usize = 4;

/// One port in its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The port's name.
    pub port: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The size of its surface or buffer.
    pub bytes: usize,
}

/// What a driver is about to do with one program.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// By which route.
    pub route: Route,
    /// In the order of their slots.
    pub inputs: Vec<Slot>,
    /// In the order of their slots.
    pub outputs: Vec<Slot>,
    /// The text and its blob files.
    pub written: &'a Written,
    /// Programs that this process has compiled before this one.
    pub compiled: usize,
    /// Programs that this process has loaded now.
    pub loaded: usize,
}

impl Plan<'_> {
    /// What the catalogue says about it on `chip`, worst first.
    pub fn lint(&self, chip: Chip) -> Vec<Finding> {
        findings_of(chip, self.route, |check| match check {
            Check::Plan(check) => check(self),
            _ => Vec::new(),
        })
    }
}

/// In the order of their ids.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "ANE-004",
        statement: "a process loads about 128 programs and, in memory, compiles about 119; then it fails",
        symptom: "a load or a compile fails, in memory without an error; 0x50004",
        remedy: "keep to 100 programs, one for each shape, and unload what is no longer needed; or start again",
        source: "ANEForge: 128 loaded, a release frees a place; maderix/ANE, Orion: 119 compiles; ANEgpt blames leaks",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Plan(|plan| {
            let in_memory = plan.route == AneInMem && plan.compiled >= MAX_PROGRAMS;
            let message = format!(
                "this process has compiled {} programs, of which {} are loaded",
                plan.compiled, plan.loaded
            );
            if in_memory || plan.loaded >= MAX_LOADED { vec![(Place::Program, message)] } else { Vec::new() }
        }),
    },
    Rule {
        id: "ANE-007",
        statement: "the offset of a constant is that of its descriptor",
        symptom: "garbage, in silence",
        remedy: "write 64 for the first blob, not 0 or 128",
        source: "Orion",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Plan(offsets),
    },
    Rule {
        id: "ANE-008",
        statement: "every descriptor of a blob file says its size and its offset",
        symptom: "only sizes that happen to fit are read",
        remedy: "fill every field",
        source: "maderix/ANE, autoresearch-ANE; M1, M3 Pro, M4 Pro",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Plan(|plan| {
            let files = plan.written.weights.iter();
            files
                .filter_map(|file| {
                    let read = blob::File::new(&file.path, &file.bytes).and_then(|file| file.blobs());
                    Some((Place::Program, read.err()?.to_string()))
                })
                .collect()
        }),
    },
    Rule {
        id: "ANE-009",
        statement: "each constant has a blob file of its own",
        symptom: "a program with several constants in one file is refused",
        remedy: "write one file for each, and program(1.0)",
        source: "maderix/ANE, M1 Pro and M1 Max",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Plan(|plan| {
            let count = |file: &crate::text::WeightFile| {
                blob::File::new(&file.path, &file.bytes)
                    .and_then(|f| f.blobs())
                    .map_or(0, |blobs| blobs.len())
            };
            let files = plan.written.weights.iter().filter(|file| count(file) > 1);
            files
                .map(|file| (Place::Program, format!("{} holds {} constants", file.path, count(file))))
                .collect()
        }),
    },
    Rule {
        id: "ANE-022",
        statement: "the surfaces of all outputs have one size",
        symptom: "error 0x1d",
        remedy: "give all the size of the largest, or have one output",
        source: "Orion, M4 Max; ane-train and the ane crate run others",
        routes: &[(AneInMem, Warning)],
        chips: M3_ON,
        check: Check::Plan(|plan| sizes(&plan.outputs)),
    },
    Rule {
        id: "ANE-023",
        statement: "the surfaces of all inputs have one size",
        symptom: "error 0x1d",
        remedy: "give all the size of the largest, with the data at the front; or have one input",
        source: "Orion, M4 Max; ane-train and the ane crate run others",
        routes: &[(AneInMem, Warning)],
        chips: M3_ON,
        check: Check::Plan(|plan| sizes(&plan.inputs)),
    },
    Rule {
        id: "ANE-024",
        statement: "outputs are taken in the order of their names",
        symptom: "outputs are exchanged, in silence",
        remedy: "name them so that ASCII has them in their order",
        source: "Orion, M4 Max; the ane crate goes by position",
        routes: &[(AneInMem, Warning)],
        chips: M3_ON,
        check: Check::Plan(|plan| names(&plan.outputs)),
    },
    Rule {
        id: "ANE-025",
        statement: "inputs are taken in the order of their names",
        symptom: "inputs are exchanged, in silence",
        remedy: "name them so that ASCII has them in their order",
        source: "Orion, M4 Max, all six orders of three; the ane crate goes by position",
        routes: &[(AneInMem, Warning)],
        chips: M3_ON,
        check: Check::Plan(|plan| names(&plan.inputs)),
    },
    Rule {
        id: "ANE-026",
        statement: "inputs ascend in size, outputs descend",
        symptom: "zeros",
        remedy: "order them so, with names to match",
        source: "ane-train, M1",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Plan(|plan| {
            let ascend = |pair: &[Slot]| pair[0].bytes <= pair[1].bytes;
            let inputs =
                plan.inputs.windows(2).filter(|pair| !ascend(pair)).map(|pair| (&pair[1], "smaller"));
            let descend = |pair: &[Slot]| pair[0].bytes >= pair[1].bytes;
            let outputs =
                plan.outputs.windows(2).filter(|pair| !descend(pair)).map(|pair| (&pair[1], "larger"));
            let told = inputs.chain(outputs);
            told.map(|(slot, how)| (place(slot), format!("it is {how} than the one before"))).collect()
        }),
    },
    Rule {
        id: "ANE-027",
        statement: "there is one input",
        symptom: "error 0x1d with several",
        remedy: "pack all inputs into one surface",
        source: "maderix/ANE: never several; Orion: several of one size; ane-train: up to 98",
        routes: &[(AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Plan(|plan| match plan.inputs.len() {
            0 | 1 => Vec::new(),
            count => vec![(Place::Program, format!("it has {count} inputs"))],
        }),
    },
    Rule {
        id: "ANE-028",
        statement: "several outputs are not much smaller than inputs of mixed size",
        symptom: "the run fails",
        remedy: "one program for each weight gradient",
        source: "ane-train, M1",
        routes: &[(AneInMem, Warning)],
        chips: M1_ONLY,
        check: Check::Plan(|plan| {
            let largest = plan.inputs.iter().map(|slot| slot.bytes).max().unwrap_or(0);
            let mixed = plan.inputs.iter().any(|slot| slot.bytes != largest);
            let small = plan.outputs.iter().filter(|slot| slot.bytes * MUCH_SMALLER <= largest);
            let small: Vec<&Slot> = small.collect();
            if !mixed || small.len() < 2 {
                return Vec::new();
            }
            let told = |slot: &Slot| format!("its {} bytes stand against inputs of {largest}", slot.bytes);
            small.into_iter().map(|slot| (place(slot), told(slot))).collect()
        }),
    },
    Rule {
        id: "ANE-029",
        statement: "a surface has at least 64 columns and 49,152 bytes",
        symptom: "error 0x1d, or zeros",
        remedy: "pad it",
        source: "Orion: 49,152 bytes, ane crate: 64 columns, ane-train: 2,048 bytes; ANEForge runs [1, 4] through e5rt",
        routes: &[(AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Plan(|plan| {
            let mut findings = Vec::new();
            for slot in plan.inputs.iter().chain(&plan.outputs) {
                if slot.bytes < MIN_SURFACE_BYTES {
                    findings.push((place(slot), format!("its surface has {} bytes", slot.bytes)));
                }
                let columns = slot.shape.last().copied().unwrap_or(1);
                if columns < MIN_COLUMNS {
                    findings.push((place(slot), format!("it has {columns} columns")));
                }
            }
            findings
        }),
    },
    Rule {
        id: "ANE-034",
        statement: "the flags of a matmul are named constants",
        symptom: "InvalidMILProgram",
        remedy: "write them as constants of their own",
        source: "Orion, M4 Max; ANEForge's text has them in the call",
        routes: &[(AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Plan(|plan| {
            let inline = |line: &&str| {
                line.contains("= matmul(")
                    && ["transpose_x = bool(", "transpose_y = bool("].iter().any(|flag| line.contains(flag))
            };
            let told = |line: &str| (Place::Program, format!("`{}` has them in the call", line.trim()));
            plan.written.text.lines().filter(inline).map(told).collect()
        }),
    },
    Rule {
        id: "ANE-INPUTS",
        statement: "no more than one input has four axes",
        symptom: "the program fails",
        remedy: "pack inputs into one, or give them three axes",
        source: "ane-train, M1",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Plan(|plan| {
            let four = plan.inputs.iter().filter(|slot| slot.shape.len() == 4).skip(1);
            four.map(|slot| (place(slot), "it is another input of four axes".to_owned())).collect()
        }),
    },
];

fn place(slot: &Slot) -> Place {
    Place::Port(slot.port.clone())
}

fn sizes(slots: &[Slot]) -> Findings {
    let largest = slots.iter().map(|slot| slot.bytes).max().unwrap_or(0);
    let others = slots.iter().filter(|slot| slot.bytes != largest);
    others.map(|slot| (place(slot), format!("{} bytes beside {largest}", slot.bytes))).collect()
}

fn names(slots: &[Slot]) -> Findings {
    let pairs = slots.windows(2).filter(|pair| pair[0].port > pair[1].port);
    pairs.map(|pair| (place(&pair[1]), format!("it stands behind `{}`", pair[0].port))).collect()
}

/// Whether every offset in the text is where a descriptor stands.
fn offsets(plan: &Plan<'_>) -> Findings {
    let mut findings = Vec::new();
    for line in plan.written.text.lines() {
        let Some((_, rest)) = line.split_once("BLOBFILE(path = string(\"") else { continue };
        let Some((path, rest)) = rest.split_once('"') else { continue };
        let offset = rest.split_once("uint64(").and_then(|(_, rest)| rest.split_once(')'));
        let Some(offset) = offset.and_then(|(number, _)| number.parse::<u64>().ok()) else { continue };
        let file = plan.written.weights.iter().find(|file| file.path == path);
        let problem = match file {
            None => Some(format!("there is no file {path}")),
            Some(file) => {
                let read = blob::File::new(path, &file.bytes).and_then(|file| file.blob(offset).map(drop));
                read.err().map(|error| error.to_string())
            }
        };
        findings.extend(problem.map(|problem| (Place::Program, problem)));
    }
    findings
}
