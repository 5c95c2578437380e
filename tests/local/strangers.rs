//! Who does not belong gets nothing: not by writing a name by hand, not with another root, not with a
//! stolen authority.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portolan_model::{Reason, SpiffeId, TrustDomain};
use portolan_transport::mtls::{self, Expect, TlsContext, TlsError};
use portolan_transport::quic::{LinkEndpoint, LinkError, LinkSettings};
use portolan_trust::{CertificateAuthority, Identity, KeyRequest, TrustBundle};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::call::{get_now, runtime};
use super::demo::{Cluster, Demo, portolan_with};

const LIMIT: Duration = Duration::from_secs(5);

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn bundle(demo: &Demo) -> TrustBundle {
    TrustBundle::from_pem(
        &std::fs::read_to_string(demo.dir.path().join("demo/root/root.pem")).unwrap(),
    )
    .unwrap()
}

fn authority_files(demo: &Demo, cluster: &str) -> (String, String) {
    let folder = demo.dir.path().join("demo").join(cluster).join("ca");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    (read("ca.pem"), read("ca.key"))
}

/// What a cluster's authority issues when it is used as it should be.
fn honest(demo: &Demo, cluster: &str, id: &str) -> Identity {
    let (certificate, key) = authority_files(demo, cluster);
    let authority = CertificateAuthority::from_pem(&certificate, &key).unwrap();
    let request = KeyRequest::new().unwrap();
    let id = SpiffeId::parse(id).unwrap();
    let chain = authority
        .issue(&request.csr_der, &id, Duration::from_secs(3_600), now_s())
        .unwrap();
    request.into_identity(chain).unwrap()
}

/// What a thief makes of a cluster's authority: a leaf for any identity, correctly signed.
fn minted(demo: &Demo, cluster: &str, id: &str) -> Identity {
    let (certificate, key) = authority_files(demo, cluster);
    let issuer =
        rcgen::Issuer::from_ca_cert_pem(&certificate, rcgen::KeyPair::from_pem(&key).unwrap())
            .unwrap();
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    let ca = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap();
    Identity::new(vec![leaf.der().clone(), ca], key).unwrap()
}

/// Dials TLS at `address` for `sni` and asks over HTTP/1.1; the first bytes of the answer.
async fn ask(
    identity: Identity,
    trust: TrustBundle,
    address: SocketAddr,
    sni: &str,
) -> Result<String, TlsError> {
    let tls = TlsContext::new(Some(identity), trust).unwrap();
    let config = tls.client_config(Expect::Anybody, &[b"http/1.1"], true);
    let tcp = tokio::net::TcpStream::connect(address)
        .await
        .map_err(TlsError::Io)?;
    let mut connected = mtls::connect(&config, sni, tcp, LIMIT).await?;
    connected
        .stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .map_err(TlsError::from_io)?;
    let mut answer = [0; 12];
    connected
        .stream
        .read_exact(&mut answer)
        .await
        .map_err(TlsError::from_io)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn what_is_not_exported_is_out_of_reach_even_with_its_sni_written_by_hand() {
    let demo = Demo::start();
    for host in [
        "inventory.shop.svc.clusterset.local",
        "inventory.shop.global",
        "inventory.shop.eu-west.global",
    ] {
        let answer = get_now(demo.frontend(), &format!("http://{host}/")).unwrap();
        assert!(
            answer.status >= 400 && answer.refusal().starts_with("no_route"),
            "{host}: {answer:?}"
        );
    }
    let gateway = demo.cluster("us-east").gateway.tcp;
    let by_hand = |service: &str| {
        let frontend = honest(
            &demo,
            "us-east",
            "spiffe://us-east.demo/ns/shop/sa/frontend",
        );
        let sni = format!("p80.{service}.shop.eu-west.portolan.internal");
        runtime().block_on(ask(frontend, bundle(&demo), gateway, &sni))
    };
    assert_eq!(by_hand("orders").unwrap(), "HTTP/1.1 200");
    let refused = by_hand("inventory").unwrap_err();
    assert_eq!(refused.reason(), Reason::NotExported, "{refused}");

    // Past the own gateway's check: straight to the serving sidecar.
    let inventory = demo.cluster("eu-west").workload("inventory").inbound;
    let straight = |cluster: &str, domain: &str| {
        let caller = honest(
            &demo,
            cluster,
            &format!("spiffe://{domain}/ns/shop/sa/frontend"),
        );
        runtime().block_on(ask(
            caller,
            bundle(&demo),
            inventory,
            "p80.inventory.shop.eu-west.portolan.internal",
        ))
    };
    assert_eq!(straight("eu-west", "eu-west.demo").unwrap(), "HTTP/1.1 200");
    let foreign = straight("us-east", "us-east.demo");
    assert!(
        !matches!(&foreign, Ok(answer) if answer == "HTTP/1.1 200"),
        "{foreign:?}"
    );
}

#[test]
fn a_stolen_authority_speaks_for_its_own_trust_domain_and_no_other() {
    let demo = Demo::start();
    let payments = demo.cluster("eu-west").workload("payments").inbound;
    let sni = "p80.payments.shop.eu-west.portolan.internal";
    let call = |identity| runtime().block_on(ask(identity, bundle(&demo), payments, sni));

    let own = minted(
        &demo,
        "us-west",
        "spiffe://us-west.demo/ns/shop/sa/frontend",
    );
    assert_eq!(
        call(own).unwrap(),
        "HTTP/1.1 200",
        "the same way of minting works inside the trust domain"
    );
    let foreign = minted(
        &demo,
        "us-west",
        "spiffe://us-east.demo/ns/shop/sa/frontend",
    );
    let refused = call(foreign);
    assert!(refused.is_err(), "{refused:?}");

    let link = |identity| runtime().block_on(dial(&demo, identity, demo.cluster("eu-west")));
    assert!(
        link(minted(
            &demo,
            "us-west",
            "spiffe://us-west.demo/portolan/gateway/x"
        ))
        .is_ok()
    );
    assert!(
        link(minted(
            &demo,
            "us-west",
            "spiffe://us-east.demo/portolan/gateway/x"
        ))
        .is_err()
    );
    assert!(
        link(honest(
            &demo,
            "us-west",
            "spiffe://us-west.demo/ns/shop/sa/frontend"
        ))
        .is_err(),
        "only gateways make links"
    );
}

async fn dial(demo: &Demo, identity: Identity, to: &Cluster) -> Result<(), LinkError> {
    let tls = TlsContext::new(Some(identity), bundle(demo)).unwrap();
    let endpoint = LinkEndpoint::bind(
        "127.0.0.1:0".parse().unwrap(),
        &tls,
        LinkSettings::default(),
        |_| false,
    )?;
    let domain = TrustDomain::parse(&format!("{}.demo", to.name)).unwrap();
    endpoint
        .dial(to.gateway.quic, Expect::Gateway(domain))
        .await
        .map(drop)
}

#[test]
fn a_cluster_under_another_root_or_without_a_peer_declaration_gets_nothing() {
    let demo = Demo::start();
    let eu_west = demo.cluster("eu-west");
    let other = demo.dir.path().join("other");
    let issue = |root: &Path, cluster: &str, out: &Path| {
        let (root, out) = (root.to_str().unwrap(), out.to_str().unwrap());
        portolan_with(
            &[],
            &[
                "ca",
                "issue",
                "--dir",
                root,
                "--cluster",
                cluster,
                "--cluster-set",
                "demo",
                "--out",
                out,
            ],
            "",
        )
        .ok();
    };
    portolan_with(
        &[],
        &[
            "ca",
            "init",
            "--dir",
            other.to_str().unwrap(),
            "--cluster-set",
            "demo",
        ],
        "",
    )
    .ok();

    // The same names under another root.
    issue(&other, "us-east", &demo.dir.path().join("forged"));
    // A real authority under the real root, of a cluster that nobody declared.
    issue(
        &demo.dir.path().join("demo/root"),
        "fourth",
        &demo.dir.path().join("fourth"),
    );

    for (folder, domain) in [("forged", "us-east.demo"), ("fourth", "fourth.demo")] {
        let read =
            |name: &str| std::fs::read_to_string(demo.dir.path().join(folder).join(name)).unwrap();
        let authority = CertificateAuthority::from_pem(&read("ca.pem"), &read("ca.key")).unwrap();
        let identity = |path: &str| {
            let request = KeyRequest::new().unwrap();
            let id = SpiffeId::parse(&format!("spiffe://{domain}{path}")).unwrap();
            let chain = authority
                .issue(&request.csr_der, &id, Duration::from_secs(600), now_s())
                .unwrap();
            request.into_identity(chain).unwrap()
        };
        let link = runtime().block_on(dial(&demo, identity("/portolan/gateway/x"), eu_west));
        assert!(link.is_err(), "{folder}: a link came up");
        let payments = eu_west.workload("payments").inbound;
        let call = runtime().block_on(ask(
            identity("/ns/shop/sa/frontend"),
            bundle(&demo),
            payments,
            "p80.payments.shop.eu-west.portolan.internal",
        ));
        assert!(
            !matches!(&call, Ok(answer) if answer == "HTTP/1.1 200"),
            "{folder}: {call:?}"
        );
    }
}
