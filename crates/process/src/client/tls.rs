//! TLS. A server is trusted for a built-in root or a certificate from a setting, and
//! also if it shows that very certificate itself.
//!
//! The last is what `openssl req -x509` makes and people give to curl: one certificate
//! that is a CA and the server's own. The library refuses a CA in that place, so its
//! verdict is looked at once more here.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use rustls::client::WantsClientCert;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, ConfigBuilder, DigitallySignedStruct, Error,
    OtherError, RootCertStore, SignatureScheme, StreamOwned,
};
use ureq::tls::Certificate;
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

/// Whether a certificate can be trusted as a root.
///
/// # Errors
/// It is not a certificate.
pub fn check_root(certificate: &Certificate<'_>) -> Result<(), Error> {
    RootCertStore::empty().add(CertificateDer::from(certificate.der()))
}

/// Encrypts the connections to https:// URLs.
#[derive(Debug)]
pub struct Tls {
    given: Vec<CertificateDer<'static>>,
    /// Made at the first use: most programs never need it.
    config: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    /// Trusts the built-in roots and the given certificates.
    pub fn new(given: &[Certificate<'static>]) -> Self {
        let given =
            given.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
        Self { given, config: OnceLock::new() }
    }

    /// Trusts the given certificates alone, and shows one of its own, in PEM.
    ///
    /// # Errors
    /// The text holds no certificate or no key, or they do not belong together.
    pub fn mutual(given: &[Certificate<'static>], chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let unreadable = |what: &str| Error::General(format!("it holds no {what} in PEM"));
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| unreadable("certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| unreadable("key"))?;
        let tls = Self::new(given);
        let config = build(RootCertStore::empty(), &tls.given)?.with_client_auth_cert(chain, key)?;
        tls.config.get_or_init(|| Arc::new(config));
        Ok(tls)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let config = build(roots, &self.given)?.with_no_client_auth();
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }
}

fn build(
    mut roots: RootCertStore,
    given: &[CertificateDer<'static>],
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    for certificate in given {
        roots.add(certificate.clone())?;
    }
    let provider = Arc::new(ring::default_provider());
    let web_pki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let verifier = Arc::new(Verifier { web_pki, given: given.to_vec() });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, Encrypted>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(plain) = chained else { return Ok(None) };
        if !details.needs_tls() {
            return Ok(Some(Either::A(plain)));
        }
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ureq::Error::Tls("the host's name cannot be in a certificate"))?;
        let mut connection = ClientConnection::new(self.config()?, name)?;
        let mut stream = TransportAdapter::new(plain.boxed(), details.current_time.clone());
        stream.set_timeout(left(details));
        connection.complete_io(&mut stream)?;
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let buffers = LazyBuffers::new(input, output);
        Ok(Some(Either::B(Encrypted { stream: StreamOwned::new(connection, stream), buffers })))
    }
}

/// The time that is left after connecting.
fn left(details: &ConnectionDetails) -> NextTimeout {
    let mut timeout = details.timeout;
    if let Duration::Exact(after) = &mut timeout.after
        && let (Instant::Exact(start), Instant::Exact(now)) = (details.now, (details.current_time)())
    {
        *after = after.saturating_sub(now.saturating_duration_since(start));
    }
    timeout
}

/// An encrypted connection.
pub struct Encrypted {
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    buffers: LazyBuffers,
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypted").finish_non_exhaustive()
    }
}

impl Transport for Encrypted {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// The library's verifier, and the certificates that were given.
#[derive(Debug)]
struct Verifier {
    web_pki: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict =
            self.web_pki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        // It looks at the dates first, so an expired certificate has another verdict.
        let is_ca = |error: &Error| match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                matches!(inner.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
            }
            _ => false,
        };
        if !verdict.as_ref().is_err_and(is_ca) {
            return verdict;
        }
        if !self.given.contains(end_entity) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        match verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name) {
            // Made without -addext subjectAltName: it names nobody, and was given for this.
            Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented, ..
            })) if presented.is_empty() => Ok(ServerCertVerified::assertion()),
            name => name.map(|()| ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.web_pki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.web_pki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.web_pki.supported_verify_schemes()
    }
}
