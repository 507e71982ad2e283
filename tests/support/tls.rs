//! A station that speaks TLS.

use std::io::{Error, Write as _};
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::NamedTempFile;

use super::station::{Answer, Post, Station};

/// A station on `localhost` with a certificate of a private CA, and a file with the
/// certificate of its CA.
pub fn station(decide: impl Fn(&Post) -> Answer + Send + Sync + 'static) -> (Station, NamedTempFile) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (serve(&certificate, &key, decide), file(&ca_pem))
}

/// A station whose certificate is signed by itself, and a CA, as `openssl req -x509`
/// makes it; and a file with this certificate. `edit` may change it before.
pub fn own_certificate(
    names: &[&str],
    edit: impl FnOnce(&mut CertificateParams),
    decide: impl Fn(&Post) -> Answer + Send + Sync + 'static,
) -> (Station, NamedTempFile) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    edit(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    (serve(&certificate, &key, decide), file(&certificate.pem()))
}

fn file(pem: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    file
}

fn serve(
    certificate: &Certificate,
    key: &KeyPair,
    decide: impl Fn(&Post) -> Answer + Send + Sync + 'static,
) -> Station {
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let tls = Arc::new(tls);
    let wrap = move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&tls)).map_err(Error::other)?;
        Ok(rustls::StreamOwned::new(connection, stream))
    };
    Station::start_with(0, decide, wrap).unwrap()
}
