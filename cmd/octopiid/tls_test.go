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
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octopii/octopii/internal/loglimit"
)

// authority is a CA and the one certificate that it gave out, in files.
type authority struct{ ca, cert, key string }

// newAuthority makes a certificate for 127.0.0.1 that serves both sides.
func newAuthority(t *testing.T) authority {
	t.Helper()
	return newAuthorityUntil(t, time.Now().Add(time.Hour))
}

// newAuthorityUntil makes one whose certificate is valid until an instant.
func newAuthorityUntil(t *testing.T, until time.Time) authority {
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
		NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
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
		c, err := served.config().GetConfigForClient(nil)
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

// A certificate that clients will refuse is told by name, at the start and when it is read
// again.
func TestExpiredClientCertificateIsTold(t *testing.T) {
	t.Parallel()
	a, expired := newAuthority(t), newAuthorityUntil(t, time.Now().Add(-time.Hour))
	core, logs := observer.New(zap.WarnLevel)
	told := func() string {
		t.Helper()
		var text strings.Builder
		for _, line := range logs.TakeAll() {
			text.WriteString(line.Message)
		}
		return text.String()
	}
	want := `clients will refuse this member's certificate; the certificate "CN=test member" expired at `
	if _, err := clientTLS(config{ClientCertFile: expired.cert, ClientKeyFile: expired.key}, zap.New(core)); err != nil {
		t.Fatal(err)
	}
	if text := told(); !strings.HasPrefix(text, want) {
		t.Errorf("at the start it warns %q; want %q", text, want)
	}
	if _, err := clientTLS(config{ClientCertFile: a.cert, ClientKeyFile: a.key, ClientCAFile: expired.cert}, zap.New(core)); err != nil {
		t.Fatal(err)
	}
	if text := told(); !strings.HasPrefix(text, "clients with a certificate of this authority will be refused; ") {
		t.Errorf("of an expired authority it warns %q", text)
	}
	// What is good at first is replaced.
	served, err := clientTLS(config{ClientCertFile: a.cert, ClientKeyFile: a.key, ClientCAFile: a.ca}, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	if text := told(); text != "" {
		t.Errorf("of a good certificate it warns %q", text)
	}
	copyLater(t, expired.key, a.key)
	copyLater(t, expired.cert, a.cert)
	if _, err := served.config().GetConfigForClient(nil); err != nil {
		t.Fatal(err)
	}
	if text := told(); !strings.HasPrefix(text, want) {
		t.Errorf("on reading it again it warns %q; want %q", text, want)
	}
}

// copyLater replaces a file, with a time that is another one.
func copyLater(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Second)
	if err := os.Chtimes(to, later, later); err != nil {
		t.Fatal(err)
	}
}

// Every cause of a refused handshake is said with what to change.
func TestHandshakeAdvice(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	expired := newAuthorityUntil(t, time.Now().Add(-time.Hour))
	serverOf := func(who authority, ca string) *tls.Config {
		t.Helper()
		cfg, err := loadClientTLS(config{ClientCertFile: who.cert, ClientKeyFile: who.key, ClientCAFile: ca})
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	server := func(ca string) *tls.Config { return serverOf(a, ca) }
	shows := func(who authority) *tls.Config {
		cfg := a.client(t, false)
		cfg.Certificates = who.client(t, true).Certificates
		return cfg
	}
	for name, c := range map[string]struct {
		server, client *tls.Config
		says           string
	}{
		"no TLS":         {server(a.ca), nil, "it does not use TLS"},
		"no certificate": {server(a.ca), a.client(t, false), "it showed no certificate"},
		"another CA":     {server(a.ca), shows(other), "an authority that is not in --client-ca-file"},
		"expired":        {server(expired.ca), shows(expired), "expired at"},
		"own expired":    {serverOf(expired, expired.ca), expired.client(t, true), "certificate of --client-cert-file, rightly; the certificate \"CN=test member\" expired at"},
		"CA of client":   {server(a.ca), other.client(t, true), "it does not accept the certificate of --client-cert-file"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				conn, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				if c.client == nil {
					_, _ = conn.Write([]byte("PRI * HTTP/2.0"))
					return
				}
				c.client.ServerName = "127.0.0.1"
				secure := tls.Client(conn, c.client)
				if secure.Handshake() == nil { // a refusal may come after it
					_, _ = secure.Read(make([]byte, 1))
				}
			}()
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			err = tls.Server(conn, c.server).Handshake()
			<-ended
			own := (&certificates{current: c.server, seen: changed(config{})}).fault()
			if err == nil || !strings.Contains(handshakeAdvice(err, own, time.Now()), c.says) {
				t.Errorf("the handshake ends with %v, and the advice is %q; want %q", err, handshakeAdvice(err, own, time.Now()), c.says)
			}
		})
	}
}

// A member logs refused handshakes with the address and the cause, and strangers cannot
// fill its log.
func TestRefusedHandshakesAreLogged(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	clients := freeAddr(t)
	p := spawn(t, nil, "start", "--data-dir", t.TempDir(), "--client-addr", clients, "--peer-addr", "127.0.0.1:0", "--bootstrap", "--found-after", "0",
		"--client-cert-file", a.cert, "--client-key-file", a.key, "--client-ca-file", a.ca)
	p.waitReady()
	const strangers = 20
	local := make([]string, strangers)
	for i := range local {
		conn, err := net.Dial("tcp", clients)
		if err != nil {
			t.Fatal(err)
		}
		local[i] = conn.LocalAddr().String()
		if _, err := conn.Write([]byte("PRI * HTTP/2.0")); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, conn) // until it is refused
		conn.Close()
	}
	until(t, func(context.Context) error { // one of the first: they are refused before it is said
		if text := p.text(); !slices.ContainsFunc(local, func(addr string) bool { return strings.Contains(text, addr) }) {
			return fmt.Errorf("the log names none of %v", local)
		}
		return nil
	})
	if text := p.text(); strings.Count(text, "a client was refused in its TLS handshake: it does not use TLS") > strangers/2 {
		t.Errorf("%d strangers are not counted together", strangers)
	}

	core, logs := observer.New(zap.InfoLevel)
	h := &handshakes{lg: zap.New(core), limit: loglimit.Limit{Every: time.Hour}}
	h.failed(&net.TCPAddr{}, io.EOF) // a check whether the port is open
	for range 3 {
		h.failed(&net.TCPAddr{}, tls.RecordHeaderError{})
	}
	if n := logs.Len(); n != 1 {
		t.Errorf("of three refused handshakes the log has %d lines", n)
	}
}
