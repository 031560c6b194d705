//! TLS before a server that has none: takes it off and passes on what is inside, as a load balancer does.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certificates::ServerCertificate;

/// Listens on a loopback port until its runtime ends.
pub struct TlsFront {
    address: SocketAddr,
}

impl TlsFront {
    pub async fn before(server: SocketAddr, identity: &ServerCertificate) -> Self {
        let chain = CertificateDer::pem_file_iter(&identity.certificate).expect("a certificate in PEM");
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("a certificate in PEM");
        let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key in PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions of TLS").with_no_client_auth().with_single_cert(chain, key);
        let acceptor = TlsAcceptor::from(Arc::new(config.expect("a key of that certificate")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("its number");
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A client that goes away is what these tests are about.
                tokio::spawn(pass(acceptor.clone(), client, server));
            }
        });
        Self { address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn pass(acceptor: TlsAcceptor, client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(server).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}
