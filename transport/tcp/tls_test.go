package tcp

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
	"testing"
	"time"

	"github.com/octopii/octopii/transport/transporttest"
)

// authority signs certificates for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
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

// issue writes the files of a member at 127.0.0.1.
func (a *authority) issue(t *testing.T) TLS {
	t.Helper()
	return a.issueNamed(t, "")
}

func (a *authority) issueNamed(t *testing.T, common string, names ...string) TLS {
	t.Helper()
	return a.issueAt(t, net.IPv4(127, 0, 0, 1), common, names...)
}

func (a *authority) issueAt(t *testing.T, ip net.IP, common string, names ...string) TLS {
	t.Helper()
	return a.issueLike(t, func(c *x509.Certificate) {
		c.IPAddresses, c.Subject.CommonName, c.DNSNames = []net.IP{ip}, common, names
	})
}

// issueLike issues a certificate that is good but for what change does to it.
func (a *authority) issueLike(t *testing.T, change func(*x509.Certificate)) TLS {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return TLS{
		CertFile: write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		KeyFile:  write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})),
		CAFile:   write("ca.pem", a.pem),
	}
}

func TestTLSRefusesStrangers(t *testing.T) {
	home := newAuthority(t)
	b, hb := start(t, 2, Config{TLS: home.issue(t)})
	plain, _ := start(t, 1, Config{})
	stranger, _ := start(t, 1, Config{TLS: newAuthority(t).issue(t)})
	// One that would trust the acceptor, and is trusted by nobody.
	unsigned := newAuthority(t).issue(t)
	unsigned.CAFile = home.issue(t).CAFile
	pretender, _ := start(t, 1, Config{TLS: unsigned})
	for name, a := range map[string]*Transport{"plain": plain, "stranger": stranger, "pretender": pretender} {
		if _, err := a.Call(t.Context(), b.Address(), 1, bytesMessage("x")); err == nil {
			t.Errorf("%s: a call without a certificate of this authority was answered", name)
		}
		if _, err := a.Probe(t.Context(), b.Address()); err == nil {
			t.Errorf("%s: a probe without a certificate of this authority was answered", name)
		}
	}
	if n := len(hb.Accepted()); n != 0 {
		t.Errorf("Accept was asked about %d strangers", n)
	}
	friend, _ := start(t, 1, Config{TLS: home.issue(t)})
	if _, err := friend.Probe(t.Context(), b.Address()); err != nil {
		t.Errorf("a member with a good certificate: %v", err)
	}
	if !friend.Authenticated() || plain.Authenticated() {
		t.Error("only certificates prove who is a peer")
	}
	friend.SetPeer(2, b.Address())
	friend.Send(2, 1, number(1))
	transporttest.Until(t, "its message arrives", func() bool { return hb.Received(1) == 1 })
}

func TestTLSFilesMustBeSound(t *testing.T) {
	files := newAuthority(t).issue(t)
	files.CAFile = files.KeyFile
	if tr, err := New(Config{Listen: "127.0.0.1:0", TLS: files}); err == nil {
		_ = tr.Close()
		t.Error("a file of authorities without a certificate was taken")
	}
}
