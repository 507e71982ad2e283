//! A station that speaks TLS, with a certificate of a private CA.

use std::io::{Error, Write as _};
use std::sync::Arc;

use tempfile::NamedTempFile;

use super::station::{Answer, Post, Station};

/// A station on `localhost`, and a file with the certificate of its CA.
pub fn station(decide: impl Fn(&Post) -> Answer + Send + Sync + 'static) -> (Station, NamedTempFile) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
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
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(ca_pem.as_bytes()).unwrap();
    (Station::start_with(0, decide, wrap).unwrap(), file)
}
