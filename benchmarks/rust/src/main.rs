//! The published sidecar as a process, for benchmarks and tests: `chio-sidecar-peer ADDRESS STORE SPEC [ISSUER…]`.
//!
//! ISSUER is the public key, in hex, of an authority whose capabilities it accepts.

use chio_api_protect::{ProtectConfig, ProtectProxy};
use chio_core_types::crypto::PublicKey;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = |name: &str| arguments.next().unwrap_or_else(|| panic!("{name} is missing"));
    let (address, store, spec) = (next("ADDRESS"), next("STORE"), next("SPEC"));
    let issuers = arguments.map(|key| PublicKey::from_hex(&key).expect("ISSUER is a public key in hex"));
    let config = ProtectConfig {
        upstream: "http://127.0.0.1:1".into(),
        spec_content: None,
        spec_path: Some(spec),
        listen_addr: address,
        receipt_db: Some(store),
        sidecar_control_token: None,
        signer_seed_hex: None,
        trusted_capability_issuers: issuers.collect(),
    };
    ProtectProxy::new(config).run().await.expect("the sidecar ends");
}
