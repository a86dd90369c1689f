//! What the catalogue knows about an error of Apple's frameworks.

use mil::lint;

use crate::e5rt::CallError;

/// Words in a message, or the call that failed, and what they are known to mean.
struct Known {
    /// Part of the call's name; empty for any.
    call: &'static str,
    /// Part of the message; empty for any.
    message: &'static str,
    /// What it means.
    meaning: &'static str,
    /// Rules of the catalogue that say more.
    rules: &'static [&'static str],
}

/// The first that fits is told. Messages as ANEForge, Orion and ane-train quote them.
const KNOWN: &[Known] = &[
    Known {
        call: "",
        message: "Must re-compile the E5 bundle",
        meaning: "the bundle was compiled by another process and is refused here",
        rules: &["ANE-010"],
    },
    Known {
        call: "",
        message: "InvalidMILProgram",
        meaning: "the MIL text was refused before it reached the engine's compiler",
        rules: &["ANE-036", "ANE-034"],
    },
    Known {
        call: "",
        message: "ANECCompile() FAILED",
        meaning: "the engine's compiler refused an op, a shape or a fusion",
        rules: &["ANE-017"],
    },
    Known {
        call: "",
        message: "only supported for H13",
        meaning: "this engine is older than M1's and takes no MIL",
        rules: &[],
    },
    Known {
        call: "",
        message: "Program Inference error",
        meaning: "the engine gave a run up: a buffer too small, or a shape below its minimum",
        rules: &["ANE-029"],
    },
    Known { call: "", message: "Invalid E5 path", meaning: "no bundle was found at that path", rules: &[] },
    Known {
        call: "",
        message: "0x50004",
        meaning: "too many programs are loaded, or some were not released",
        rules: &["ANE-004"],
    },
    Known {
        call: "compileWithQoS",
        message: "",
        meaning: "the program was refused; without a text it is often the number of compiles in one process, and \
                  `anneal mil lint --route ane-inmem` names the rules that a program breaks, if they are known",
        rules: &["ANE-004", "ANE-003"],
    },
    Known {
        call: "loadWithQoS",
        message: "",
        meaning: "the program could not be loaded onto the engine; too many loaded programs are the usual reason",
        rules: &["ANE-004"],
    },
    Known {
        call: "evaluateWithQoS",
        message: "",
        meaning: "the run failed; what the outputs hold is not to be used",
        rules: &["ANE-019"],
    },
    Known {
        call: "modelWithMILText",
        message: "",
        meaning: "the framework takes the text or the weights not as they are handed over",
        rules: &["ANE-001", "ANE-002"],
    },
    Known {
        call: "IOSurfaceCreate",
        message: "",
        meaning: "the system gives no surface; fewer sequences at a time need smaller ones",
        rules: &["ANE-018"],
    },
    Known {
        call: "e5rt_e5_compiler_compile",
        message: "",
        meaning: "the program was refused; `anneal mil lint` names the rules that it breaks, if they are known",
        rules: &["ANE-017"],
    },
    Known {
        call: "create_precompiled_compute_operation",
        message: "",
        meaning: "the program could not be loaded onto the device; too many loaded programs are the usual reason",
        rules: &["ANE-004"],
    },
    Known {
        call: "retain_input_port",
        message: "",
        meaning: "the compiled program has no such input",
        rules: &[],
    },
    Known {
        call: "retain_output_port",
        message: "",
        meaning: "the compiled program has no such output",
        rules: &[],
    },
    Known {
        call: "bind_buffer_object",
        message: "",
        meaning: "a buffer was refused: too small for its port, or the operation is already encoded",
        rules: &["ANE-014"],
    },
    Known {
        call: "e5rt_execution_stream_execute_sync",
        message: "",
        meaning: "the run failed; what the outputs hold is not to be used",
        rules: &["ANE-019"],
    },
];

/// The error with what is known about it.
pub(crate) fn explain(error: &CallError) -> String {
    let message = error.message.as_deref().unwrap_or_default();
    let known = KNOWN.iter().find(|known| {
        error.call.contains(known.call)
            && message.contains(known.message)
            && !(known.call.is_empty() && known.message.is_empty())
    });
    let Some(known) = known else {
        return error.to_string();
    };
    let mut text = format!("{error}: {}", known.meaning);
    for rule in known.rules.iter().filter_map(|id| lint::rule(id)) {
        text += &format!("; {}: {}", rule.id, rule.statement);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(call: &'static str, message: Option<&str>) -> CallError {
        CallError { call, code: 13, message: message.map(str::to_owned) }
    }

    #[test]
    fn an_error_names_its_call_its_code_and_what_is_known() {
        let text = explain(&error("e5rt_e5_compiler_compile", Some("ANECCompile() FAILED")));
        assert!(text.starts_with("e5rt_e5_compiler_compile answered 13 (ANECCompile() FAILED): "), "{text}");
        assert!(text.contains("the engine's compiler refused"), "{text}");
        assert_eq!(explain(&error("e5rt_x", None)), "e5rt_x answered 13");
    }

    #[test]
    fn every_rule_that_is_told_exists() {
        for id in KNOWN.iter().flat_map(|known| known.rules) {
            assert!(lint::rule(id).is_some(), "{id} is not in the catalogue");
        }
    }
}
