//! What profiles say about the route `_ANEInMemoryModel`: surfaces, slots and limits.

/// In which order the surfaces of a request meet the ports of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slots {
    /// As the program declares its ports.
    Declared,
    /// By the ASCII order of the ports' names.
    ByName,
}

/// How a result is wrong without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silent {
    /// Rows are taken to lie a rounded-up row apart, so elements change places.
    Displaced,
    /// Every output is zero.
    Zeros,
}

/// The answer to something that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `Program Inference error`, status 0x1d.
    InferenceError,
    /// Success and zeros.
    Zeros,
}

/// The answer to an argument that is nil, or of another class than it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadArgument {
    /// The process ends.
    Crash,
    /// The result is nil.
    Nil,
}

/// How the route behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InMem {
    /// Which surface meets which port (ANE-024, ANE-025).
    pub slots: Slots,
    /// Whether inputs must ascend and outputs descend in bytes, or the results are zeros (ANE-026).
    pub sorted_by_size: bool,
    /// Whether all inputs must have one allocation size, and all outputs (ANE-022, ANE-023).
    pub uniform_sizes: bool,
    /// Whether more than one input is refused (ANE-027).
    pub one_input: bool,
    /// The smallest surface in bytes, and the answer to smaller ones (ANE-029).
    pub min_surface: Option<(usize, Answer)>,
    /// The shortest last axis of a port (ANE-029).
    pub min_columns: usize,
    /// Ops that its compiler refuses, as MIL spells them.
    pub refused_ops: &'static [&'static str],
    /// Whether a constant as an operand of a matmul is refused (ANE-033).
    pub refuses_constant_matmul: bool,
    /// Rules of the catalogue whose breach compiles and gives wrong results.
    pub silent: &'static [(&'static str, Silent)],
    /// Compiles of one process, after which all fail without an error (ANE-004).
    pub compile_limit: usize,
    /// Whether a folder that holds a compiled program can be loaded without compiling (ANE-010).
    pub loads_from_folder: bool,
    /// What a nil weights dictionary, or text that is no `NSData`, leads to (ANE-001, ANE-002).
    pub bad_argument: BadArgument,
}

impl InMem {
    /// What nobody contradicts: ports in the order of their declaration, any sizes.
    pub const PLAIN: InMem = InMem {
        slots: Slots::Declared,
        sorted_by_size: false,
        uniform_sizes: false,
        one_input: false,
        min_surface: None,
        min_columns: 0,
        refused_ops: &[],
        refuses_constant_matmul: false,
        silent: &[],
        compile_limit: COMPILE_LIMIT,
        loads_from_folder: false,
        bad_argument: BadArgument::Nil,
    };

    /// ane-train: M1 and M1 Pro, macOS 26.
    pub const ANE_TRAIN: InMem = InMem {
        sorted_by_size: true,
        min_surface: Some((2048, Answer::Zeros)),
        refused_ops: &[
            "concat",
            "pow",
            "reduce_max",
            "reduce_mean",
            "reduce_sum",
            "reshape",
            "rsqrt",
            "slice_by_size",
            "transpose",
        ],
        refuses_constant_matmul: true,
        silent: &[
            ("ANE-031", Silent::Zeros),
            ("ANE-039", Silent::Zeros),
            ("ANE-041", Silent::Zeros),
            ("ANE-042", Silent::Zeros),
            ("ANE-043", Silent::Zeros),
        ],
        loads_from_folder: true,
        ..InMem::PLAIN
    };

    /// Orion: M4 Max, macOS 15.
    pub const ORION: InMem = InMem {
        slots: Slots::ByName,
        uniform_sizes: true,
        min_surface: Some((49_152, Answer::InferenceError)),
        refused_ops: &["concat", "gelu"],
        bad_argument: BadArgument::Crash,
        ..InMem::PLAIN
    };

    /// maderix/ANE: M4.
    pub const MADERIX: InMem = InMem { one_input: true, ..InMem::PLAIN };

    /// rustane: M4 Max.
    pub const RUSTANE: InMem = InMem { silent: &[("ANE-030", Silent::Displaced)], ..InMem::PLAIN };

    /// rustane's report from an M3 Ultra.
    pub const RUSTANE_M3: InMem = InMem { refused_ops: &["concat"], ..InMem::RUSTANE };

    /// The ane crate: M1 to M5.
    pub const ANE_CRATE: InMem = InMem { min_columns: 64, ..InMem::PLAIN };

    /// ANEgpt: M5, macOS 26.3.
    pub const ANEGPT: InMem = InMem::PLAIN;
}

/// "About 119" (maderix, Orion).
pub const COMPILE_LIMIT: usize = 119;
