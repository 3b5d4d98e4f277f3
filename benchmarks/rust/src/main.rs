//! The published sidecar as a process, for benchmarks: `chio-sidecar-peer ADDRESS STORE SPEC`.

use chio_api_protect::{ProtectConfig, ProtectProxy};

#[tokio::main]
async fn main() {
    let [address, store, spec] = std::env::args().skip(1).collect::<Vec<_>>().try_into().expect("ADDRESS STORE SPEC");
    let config = ProtectConfig {
        upstream: "http://127.0.0.1:1".into(),
        spec_content: None,
        spec_path: Some(spec),
        listen_addr: address,
        receipt_db: Some(store),
        sidecar_control_token: None,
        signer_seed_hex: None,
        trusted_capability_issuers: Vec::new(),
    };
    ProtectProxy::new(config).run().await.expect("the sidecar ends");
}
