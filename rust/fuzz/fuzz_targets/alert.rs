//! Any text gets statements or an error, and what compiles has a machine; any bytes are its state or are refused, and a
//! state that is taken is written as it was read.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use metricsdb_query::alert::{Machine, Plan, compile};
use metricsdb_query::syntax::program;
use metricsdb_query::syntax::statement::Statement;

fn plans(text: &str) -> Vec<Plan> {
    let Ok(program) = program(text) else { return Vec::new() };
    let alerts = program.statements.iter().filter_map(|s| match s {
        Statement::Alert(alert) => compile(alert, text).ok(),
        _ => None,
    });
    alerts.collect()
}

fn known() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| plans("ALERT High WHEN avg(cpu) > 80 FOR 5m").remove(0))
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        for plan in plans(text) {
            let state = Machine::default().to_bytes(&plan);
            assert!(Machine::from_bytes(&plan, &state).is_ok());
        }
    }
    if let Ok(machine) = Machine::from_bytes(known(), data) {
        let state = machine.to_bytes(known());
        let again = Machine::from_bytes(known(), &state).unwrap();
        assert_eq!(again.to_bytes(known()), state);
        let _ = (machine.series(known()), machine.active().count());
    }
});
