use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;
use crate::fixtures::{DAY_S, NOW_S, World, at, domain, now, root};
use crate::root::set_validity;
use crate::{IntermediatePem, pem};

const WEB_A: &str = "spiffe://a.set/ns/shop/sa/web";

fn check(chain: &[CertificateDer<'_>], world: &World) -> Result<Verified, VerifyError> {
    verify(chain, &world.bundle(), Usage::Client, now())
}

fn certificate(text: &str) -> CertificateDer<'static> {
    pem::certificates(text).unwrap().remove(0)
}

/// What somebody who stole this authority's key can sign: anything.
fn stolen(pair: &IntermediatePem) -> Issuer<'static, KeyPair> {
    let key = KeyPair::from_pem(&pair.key_pem).unwrap();
    Issuer::from_ca_cert_pem(&pair.cert_pem, key).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn leaf(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = uris.iter().map(|text| uri(text)).collect();
    set_validity(&mut params, NOW_S, NOW_S + DAY_S);
    params
}

fn sub_authority(domain: &str) -> CertificateParams {
    let mut params = leaf(&[domain]);
    params.distinguished_name.push(DnType::CommonName, "below");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn sign(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, issuer).unwrap().into()
}

#[test]
fn an_honest_identity_is_verified_for_both_usages() {
    let world = World::new();
    let identity = world.identity("a", WEB_A);
    for usage in [Usage::Client, Usage::Server] {
        let verified = verify(&identity.chain, &world.bundle(), usage, now()).unwrap();
        assert_eq!(verified.id.to_string(), WEB_A);
        assert_eq!(verified.not_after_s, NOW_S + DAY_S);
    }
    assert_eq!(identity_of(&identity.chain[0]).unwrap(), identity.id);
}

#[test]
fn a_stolen_authority_speaks_for_its_own_cluster_only() {
    let world = World::new();
    let forged = sign(&leaf(&[WEB_A]), &stolen(&world.b));
    let (honest, thief) = (
        certificate(&world.a.cert_pem),
        certificate(&world.b.cert_pem),
    );
    let refused = VerifyError::ForeignTrustDomain {
        leaf: domain("a.set"),
        issuer: domain("b.set"),
    };
    let orders: [&[&CertificateDer<'_>]; 4] = [
        &[&forged, &thief],
        &[&forged, &honest, &thief],
        &[&forged, &thief, &honest],
        &[&forged, &honest, &thief, &honest],
    ];
    for order in orders {
        let chain: Vec<_> = order.iter().map(|link| (*link).clone()).collect();
        assert_eq!(check(&chain, &world), Err(refused.clone()));
    }
    assert_eq!(
        check(&[forged, honest], &world),
        Err(VerifyError::UnknownIssuer)
    );
}

#[test]
fn the_honest_issuer_s_name_does_not_help_a_thief() {
    let world = World::new();
    let key = KeyPair::from_pem(&world.b.key_pem).unwrap();
    let masked = Issuer::from_ca_cert_pem(&world.a.cert_pem, key).unwrap();
    let forged = sign(&leaf(&[WEB_A]), &masked);
    let chain = [
        forged,
        certificate(&world.a.cert_pem),
        certificate(&world.b.cert_pem),
    ];
    assert!(matches!(check(&chain, &world), Err(VerifyError::Path(_))));
}

#[test]
fn another_root_is_refused() {
    let world = World::new();
    let stranger = World {
        root: root("set"),
        ..World::new()
    };
    let identity = stranger.identity("a", WEB_A);
    // Same names everywhere, other keys.
    assert!(check(&identity.chain, &world).is_err());
    assert_eq!(
        verify(
            &identity.chain,
            &TrustBundle::default(),
            Usage::Client,
            now()
        ),
        Err(VerifyError::UnknownIssuer)
    );
}

#[test]
fn an_authority_below_a_cluster_s_is_refused() {
    let world = World::new();
    let key = KeyPair::generate().unwrap();
    let params = sub_authority("spiffe://a.set");
    let below = params.signed_by(&key, &stolen(&world.b)).unwrap();
    let forged = sign(&leaf(&[WEB_A]), &Issuer::new(params, key));
    let chain = [forged, below.into(), certificate(&world.b.cert_pem)];
    assert!(matches!(
        check(&chain, &world),
        Err(VerifyError::Path(webpki::Error::PathLenConstraintViolated))
    ));
}

#[test]
fn an_authority_below_one_without_path_length_is_refused() {
    let world = World::new();
    let root_key = KeyPair::from_pem(&world.root.key_pem()).unwrap();
    let root = Issuer::from_ca_cert_pem(&world.root.cert_pem(), root_key).unwrap();
    let (upper_key, lower_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let upper = sub_authority("spiffe://b.set");
    let mut lower = sub_authority("spiffe://a.set");
    lower.distinguished_name.push(DnType::CommonName, "lower");
    let upper_cert = upper.signed_by(&upper_key, &root).unwrap();
    let lower_cert = lower
        .signed_by(&lower_key, &Issuer::new(upper, upper_key))
        .unwrap();
    let forged = sign(&leaf(&[WEB_A]), &Issuer::new(lower, lower_key));
    let chain = [forged, lower_cert.into(), upper_cert.into()];
    assert_eq!(check(&chain, &world), Err(VerifyError::TooDeep));
}

#[test]
fn a_leaf_from_the_root_itself_is_refused() {
    let world = World::new();
    let key = KeyPair::from_pem(&world.root.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&world.root.cert_pem(), key).unwrap();
    let chain = [sign(&leaf(&[WEB_A]), &issuer)];
    assert_eq!(
        check(&chain, &world),
        Err(VerifyError::SignedByRoot(domain("a.set")))
    );
}

#[test]
fn an_issuer_must_be_allowed_to_sign() {
    let world = World::new();
    let root_key = KeyPair::from_pem(&world.root.key_pem()).unwrap();
    let root = Issuer::from_ca_cert_pem(&world.root.cert_pem(), root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = sub_authority("spiffe://a.set");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let issuer_cert = params.signed_by(&key, &root).unwrap();
    params.key_usages.clear();
    let forged = sign(&leaf(&[WEB_A]), &Issuer::new(params, key));
    assert!(matches!(
        check(&[forged, issuer_cert.into()], &world),
        Err(VerifyError::Issuer(_))
    ));
}

#[test]
fn times_are_obeyed() {
    let world = World::new();
    let chain = world.identity("a", WEB_A).chain;
    let when = |seconds| verify(&chain, &world.bundle(), Usage::Server, at(seconds));
    assert!(when(NOW_S - crate::BACKDATE_S).is_ok());
    assert_eq!(
        when(NOW_S - crate::BACKDATE_S - 1),
        Err(VerifyError::NotYetValid)
    );
    assert_eq!(when(NOW_S + DAY_S + 1), Err(VerifyError::Expired));
}

#[test]
fn a_leaf_has_exactly_one_spiffe_id_with_a_path() {
    let world = World::new();
    let issuer = stolen(&world.a);
    let refused = |uris: &[&str]| {
        let chain = [sign(&leaf(uris), &issuer), certificate(&world.a.cert_pem)];
        check(&chain, &world).unwrap_err()
    };
    let two = refused(&[WEB_A, "spiffe://a.set/ns/shop/sa/db"]);
    assert_eq!(
        two,
        VerifyError::Uris {
            whose: "leaf",
            count: 2
        }
    );
    assert!(matches!(refused(&[]), VerifyError::Uris { count: 0, .. }));
    assert!(matches!(
        refused(&["spiffe://a.set"]),
        VerifyError::NoPath(_)
    ));
    assert!(matches!(
        refused(&["https://a.set/x"]),
        VerifyError::Id { .. }
    ));
}

#[test]
fn authorities_are_no_identities() {
    let world = World::new();
    let authority = certificate(&world.a.cert_pem);
    assert_eq!(
        check(std::slice::from_ref(&authority), &world),
        Err(VerifyError::Authority)
    );
    let mut params = leaf(&[WEB_A]);
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    let chain = [sign(&params, &stolen(&world.a)), authority];
    assert_eq!(check(&chain, &world), Err(VerifyError::MaySign));
}

#[test]
fn hostile_chains_are_refused_without_panic() {
    let world = World::new();
    assert_eq!(check(&[], &world), Err(VerifyError::NoCertificate));
    let junk = CertificateDer::from(vec![0x30, 0x82, 0xff, 0xff]);
    assert!(check(std::slice::from_ref(&junk), &world).is_err());
    let mut chain = world.identity("a", WEB_A).chain;
    chain.push(junk);
    assert!(check(&chain, &world).is_ok());
    chain.extend(chain.clone());
    assert_eq!(
        check(&chain, &world),
        Err(VerifyError::TooMany(chain.len()))
    );
}
