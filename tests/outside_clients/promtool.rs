//! promtool, which checks what Prometheus will read in a page of metrics.

use crate::{
    FROM, TO,
    harness::{Lab, message, run_with_input},
    installed, shown,
};

#[test]
fn promtool_accepts_the_metrics() {
    let lab = Lab::start();
    lab.send(FROM, &[TO], &message(FROM, TO, "counted"));
    lab.wait_for(1);
    lab.wait_until_empty();
    let mut promtool = installed("promtool", "prometheus");
    let output = run_with_input(promtool.args(["check", "metrics"]), lab.page("/metrics").1.as_bytes());
    // It also complains about style: there must be no complaint of that kind either.
    assert!(output.status.success() && shown(&output).is_empty(), "{}", shown(&output));
}
