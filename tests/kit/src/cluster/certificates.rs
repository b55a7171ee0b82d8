//! The certificates of a cluster and the kubeconfigs of its clients. Pure.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

/// A certificate authority for servers and clients.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(super) struct Certified {
    /// The certificate.
    pub(super) certificate: String,
    /// Its private key.
    pub(super) key: String,
}

impl Authority {
    /// A new authority.
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "plumbline-tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate, as PEM.
    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for a server with these names and addresses.
    pub(super) fn server(&self, names: &[&str]) -> Certified {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        self.sign(CertificateParams::new(names).unwrap(), "kube-apiserver", vec![ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// Issues a certificate for a client: Kubernetes reads the user from the common name, and the group from the
    /// organization.
    pub(super) fn client(&self, user: &str, group: Option<&str>) -> Certified {
        let mut params = CertificateParams::default();
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        self.sign(params, user, vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// Issues a certificate for a node's kubelet, which is a client and a server.
    pub(super) fn kubelet(&self, node: &str, address: &str) -> Certified {
        let mut params = CertificateParams::new(vec![node.to_owned(), address.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, &format!("system:node:{node}"), usages)
    }

    fn sign(&self, mut params: CertificateParams, name: &str, usages: Vec<ExtendedKeyUsagePurpose>) -> Certified {
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Certified { certificate, key: key.serialize_pem() }
    }
}

/// The public and the private key of service account tokens, as PEM.
pub(super) fn signing_keys() -> (String, String) {
    let keys = KeyPair::generate().unwrap();
    (keys.public_key_pem(), keys.serialize_pem())
}

/// Credentials of a user in a kubeconfig.
pub(super) enum Credentials<'a> {
    /// The files `<stem>.crt` and `<stem>.key`.
    Certificate(&'a Path),
    /// A service account's token.
    Token(&'a str),
}

/// Builds a kubeconfig. `authority`: the file of the authority's certificate.
pub(super) fn kubeconfig(server: &str, authority: &Path, credentials: &Credentials<'_>) -> Value {
    let user = match credentials {
        Credentials::Certificate(stem) => {
            json!({"client-certificate": stem.with_extension("crt"), "client-key": stem.with_extension("key")})
        }
        Credentials::Token(token) => json!({"token": token}),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    })
}
