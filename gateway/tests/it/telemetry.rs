//! Tests of spans, against a collector that decodes what it gets. They need the feature `otlp`, with
//! which scripts/test builds.

#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod spans;

/// A setting that does nothing would be a promise that nobody keeps.
#[cfg(not(feature = "otlp"))]
#[test]
fn a_program_without_the_feature_refuses_a_collector() {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
    program.args(["--set", "telemetry.otlp=http://127.0.0.1:4318", "--check-config"]).env_clear();
    // A variable that a cluster sets for every process is no wish of this one.
    let ignored = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let refused = program.output().expect("the program runs");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{text}");
    for word in ["telemetry.otlp", "flag --set telemetry.otlp", "--features sse-gateway/otlp"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
    program.arg("--check-config").env_clear().env(ignored.0, ignored.1);
    assert!(program.output().expect("the program runs").status.success());
}
