//! (being built)
pub struct Pickup;
impl Pickup {
    pub fn new(
        _: std::path::PathBuf,
        _: Vec<crate::config::TenantName>,
        _: super::Door,
        _: String,
        _: crate::telemetry::Metrics,
    ) -> Self {
        Self
    }
    pub async fn run(self, _: tokio_util::sync::CancellationToken) {}
}
