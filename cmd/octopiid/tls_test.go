package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// authority is a CA and the one certificate that it gave out, in files.
type authority struct{ ca, cert, key string }

// newAuthority makes a certificate for 127.0.0.1 that serves both sides.
func newAuthority(t *testing.T) authority {
	t.Helper()
	dir := t.TempDir()
	a := authority{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	caKey, key := newKey(t), newKey(t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test member"},
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	writePEM(t, a.ca, "CERTIFICATE", certify(t, ca, ca, &caKey.PublicKey, caKey))
	writePEM(t, a.cert, "CERTIFICATE", certify(t, leaf, ca, &key.PublicKey, caKey))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.key, "PRIVATE KEY", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func certify(t *testing.T, c, by *x509.Certificate, key *ecdsa.PublicKey, byKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, by, key, byKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a authority) client(t *testing.T, withCert bool) *tls.Config {
	t.Helper()
	ca, err := os.ReadFile(a.ca)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AppendCertsFromPEM(ca)
	if withCert {
		cert, err := tls.LoadX509KeyPair(a.cert, a.key)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg
}

func TestClusterWithTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	cl := startCluster(t, "--peer-cert-file", a.cert, "--peer-key-file", a.key, "--peer-ca-file", a.ca,
		"--client-cert-file", a.cert, "--client-key-file", a.key, "--client-ca-file", a.ca)
	c := client(t, a.client(t, true), cl.endpoints...)
	if _, err := c.Put(t.Context(), "a", "1"); err != nil {
		t.Fatal(err)
	}
	list, err := c.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Members {
		if !strings.HasPrefix(m.PeerURLs[0], "https://") || len(m.ClientURLs) != 1 || !strings.HasPrefix(m.ClientURLs[0], "https://") {
			t.Errorf("member %s is listed at %v and %v; want https", m.Name, m.PeerURLs, m.ClientURLs)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := client(t, a.client(t, false), cl.endpoints...).Put(ctx, "a", "2"); err == nil {
		t.Error("a client without a certificate was served")
	}
}

// Changed files are in force for the next connection; bad ones are not.
func TestClientCertificatesAreReadAgain(t *testing.T) {
	t.Parallel()
	a, b := newAuthority(t), newAuthority(t)
	cfg := config{ClientCertFile: a.cert, ClientKeyFile: a.key, ClientCAFile: a.ca}
	served, err := clientTLS(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	current := func() string {
		c, err := served.GetConfigForClient(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(c.Certificates[0].Certificate[0])
	}
	first := current()
	later := time.Now()
	replace := func(path string, with []byte) {
		t.Helper()
		if err := os.WriteFile(path, with, 0o600); err != nil {
			t.Fatal(err)
		}
		// Files that are written at once may have the same time.
		later = later.Add(time.Second)
		if err := os.Chtimes(path, later, later); err != nil {
			t.Fatal(err)
		}
	}
	replace(a.cert, []byte("no certificate"))
	if current() != first {
		t.Error("a bad file replaced the certificate")
	}
	for from, to := range map[string]string{b.cert: a.cert, b.key: a.key, b.ca: a.ca} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		replace(to, content)
	}
	if current() == first {
		t.Error("the changed certificate is not in force")
	}
}
