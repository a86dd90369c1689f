//! Each test in a process of its own: classes, counters and profile belong to the process.

use std::process::{Command, Output};

use objc2::rc::autoreleasepool;

use crate::driver::Driver;

const CHILD: &str = "STANDIN_OBJC_TEST";

/// How the process of a test ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As it should.
    Well,
    /// By `abort`.
    Crash,
}

/// Runs `body` in a child under a profile and planted bad luck. It answers a part of each violation that is
/// expected, in their order.
pub(crate) fn run_alone(
    test: &str,
    profile: &str,
    fault: &str,
    end: End,
    body: fn(&Driver) -> &'static [&'static str],
) {
    // Test names begin behind the crate's.
    let test = test.split_once("::").expect("tests are in modules").1;
    if std::env::var_os(CHILD).is_some_and(|child| child == test) {
        return watched(body);
    }
    // Models of one text have one folder, which no other process may have at the same time.
    let temporary = tempfile::tempdir().expect("the system has a temporary folder");
    let output = Command::new(std::env::current_exe().expect("a process knows its program"))
        .args(["--exact", test, "--nocapture"])
        .envs([(CHILD, test), ("ANNEAL_STANDIN_PROFILE", profile), ("ANNEAL_STANDIN_FAULT", fault)])
        .envs(["TEMP", "TMP", "TMPDIR"].map(|name| (name, temporary.path())))
        .output()
        .expect("a test can run itself");
    assert!(ran(&output), "{test} did not run: {}", String::from_utf8_lossy(&output.stdout));
    let crashed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(SIGABRT);
    let ended = match end {
        End::Well => output.status.success(),
        End::Crash => crashed,
    };
    assert!(
        ended,
        "{test}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

const SIGABRT: i32 = 6;

/// A name that no test has would be a success of zero tests.
fn ran(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).contains("running 1 test")
}

fn watched(body: fn(&Driver) -> &'static [&'static str]) {
    let driver = Driver::open();
    let expected = autoreleasepool(|_| body(&driver));
    let violations = driver.report("anneal_standin_violations");
    let lines: Vec<&str> = violations.lines().collect();
    let trace = driver.report("anneal_standin_trace");
    assert_eq!(lines.len(), expected.len(), "violations: {lines:#?}\n{trace}");
    for (line, part) in lines.iter().zip(expected) {
        assert!(line.contains(part), "`{line}` does not tell of `{part}`\n{trace}");
    }
    assert_eq!(driver.report("anneal_standin_live"), "", "objects are left\n{trace}");
}

/// Declares tests that [`run_alone`] runs.
macro_rules! alone {
    ($($(#[doc = $doc:literal])* $name:ident under $profile:literal $(with $fault:literal)? $(ends $end:ident)? = $body:expr;)*) => {$(
        $(#[doc = $doc])*
        #[test]
        fn $name() {
            #[allow(unused_mut, unused_assignments, reason = "most tests end well and without bad luck")]
            let (mut fault, mut end) = ("", crate::alone::End::Well);
            $(fault = $fault;)?
            $(end = crate::alone::End::$end;)?
            crate::alone::run_alone(concat!(module_path!(), "::", stringify!($name)), $profile, fault, end, $body);
        }
    )*};
}
pub(crate) use alone;
