package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Longer than any benchmark takes.
const lifetime = 24 * time.Hour

// identity is a key with its certificate.
type identity struct {
	certificate *x509.Certificate
	private     *ecdsa.PrivateKey
}

func (i identity) certificatePEM() []byte { return encoded("CERTIFICATE", i.certificate.Raw) }

func (i identity) keyPEM() ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(i.private)
	return encoded("EC PRIVATE KEY", der), err
}

func encoded(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// issue makes a key and its certificate, by itself where there is no issuer.
func issue(name string, groups []string, issuer *identity) (identity, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	signer := identity{template, private}
	if issuer == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.ExtKeyUsage, template.DNSNames, template.IPAddresses = nil, nil, nil
	} else {
		template.KeyUsage = x509.KeyUsageDigitalSignature
		signer = *issuer
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.certificate, &private.PublicKey, signer.private)
	if err != nil {
		return identity{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	return identity{certificate, private}, err
}

// writeKeys writes the authority, the certificates that it issues, and for each client a kubeconfig.
func writeKeys(folder, server string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	authority, err := issue("upstream-ca", nil, nil)
	if err != nil {
		return err
	}
	put := func(name string, text []byte) error { return os.WriteFile(filepath.Join(folder, name), text, 0o600) }
	if err := put("ca.crt", authority.certificatePEM()); err != nil {
		return err
	}
	for _, wanted := range []struct {
		file, name string
		groups     []string
	}{
		{"serving", "kube-apiserver", nil},
		{"accounts", "accounts", nil},
		{"admin", "admin", []string{"system:masters"}},
		{"scheduler", "system:kube-scheduler", nil},
		{"controllers", "system:kube-controller-manager", nil},
	} {
		own, err := issue(wanted.name, wanted.groups, &authority)
		if err != nil {
			return err
		}
		key, err := own.keyPEM()
		if err != nil {
			return err
		}
		login, err := kubeconfig(server, authority.certificatePEM(), own.certificatePEM(), key)
		if err != nil {
			return err
		}
		for name, text := range map[string][]byte{
			wanted.file + ".crt": own.certificatePEM(), wanted.file + ".key": key, wanted.file + ".kubeconfig": login,
		} {
			if err := put(name, text); err != nil {
				return err
			}
		}
	}
	return nil
}

func kubeconfig(server string, authority, certificate, key []byte) ([]byte, error) {
	const name = "upstream"
	config := api.NewConfig()
	config.Clusters[name] = &api.Cluster{Server: server, CertificateAuthorityData: authority}
	config.AuthInfos[name] = &api.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
	config.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	return clientcmd.Write(*config)
}
