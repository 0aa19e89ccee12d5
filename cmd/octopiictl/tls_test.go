package main

import (
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// authority gives out certificates.
type authority struct {
	t    *testing.T
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var cert []byte
	cert, a.key = a.sign(a.cert)
	a.file = writePEM(t, "CERTIFICATE", cert)
	return a
}

// sign certifies a new key.
func (a *authority) sign(c *x509.Certificate) (der []byte, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	by := a.key
	if by == nil {
		by = key // it signs itself
	}
	if der, err = x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, by); err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// issue writes a certificate for a host that is valid until an instant, and its key.
func (a *authority) issue(host string, until time.Time) (cert, key string) {
	a.t.Helper()
	der, private := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "somebody"},
		NotAfter: until, IPAddresses: []net.IP{net.ParseIP(host)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return writePEM(a.t, "CERTIFICATE", der), writePEM(a.t, "PRIVATE KEY", pkcs8)
}

func writePEM(t *testing.T, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serve starts a server with a certificate of a, for clients with one of a if mutual.
func (a *authority) serve(host string, until time.Time, mutual bool) string {
	a.t.Helper()
	cert, err := tls.LoadX509KeyPair(a.issue(host, until))
	if err != nil {
		a.t.Fatal(err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}}
	if mutual {
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		pem, err := os.ReadFile(a.file)
		if err != nil {
			a.t.Fatal(err)
		}
		cfg.ClientCAs.AppendCertsFromPEM(pem)
	}
	return serve(a.t, &server{id: 0xa}, grpc.Creds(credentials.NewTLS(cfg)))
}

// Every command that connects takes etcdctl's flags.
func TestTLS(t *testing.T) {
	a := newAuthority(t)
	later := time.Now().Add(time.Hour)
	cert, key := a.issue("127.0.0.1", later)
	open, mutual := a.serve("127.0.0.1", later, false), a.serve("127.0.0.1", later, true)
	for _, command := range []string{"status", "member list", "leader failover"} {
		for _, flags := range []string{
			"--endpoints " + open + " --cacert " + a.file,
			"--endpoints https://" + open + " --cacert " + a.file,
			"--endpoints " + open + " --insecure-skip-tls-verify",
			"--endpoints " + mutual + " --cacert " + a.file + " --cert " + cert + " --key " + key,
			"--endpoints https://" + mutual + "," + mutual + " --insecure-skip-tls-verify --cert " + cert + " --key " + key,
		} {
			var out, errs strings.Builder
			if code := run(append(strings.Fields(flags), strings.Fields(command)...), &out, &errs); code != 0 {
				t.Errorf("%s %s: exit status %d: %s%s", command, flags, code, out.String(), errs.String())
			}
		}
	}
	plain := serve(t, &server{id: 0xa})
	var out, errs strings.Builder
	if code := run([]string{"--endpoints", "http://" + plain, "--cacert", a.file, "status"}, &out, &errs); code != 0 {
		t.Errorf("http:// and --cacert: exit status %d: %s%s", code, out.String(), errs.String())
	}
}

// What is wrong with TLS is one line, with what to change.
func TestTLSFaults(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	cert, key := a.issue("127.0.0.1", later)
	oldCert, oldKey := a.issue("127.0.0.1", past)
	otherCert, otherKey := other.issue("127.0.0.1", later)
	open, mutual := a.serve("127.0.0.1", later, false), a.serve("127.0.0.1", later, true)
	for flags, says := range map[string]string{
		"--endpoints " + open:                                   "it has TLS, and was asked without; name the authority of its certificate with --cacert",
		"--endpoints https://" + open:                           "name the authority of the member's certificate with --cacert",
		"--endpoints " + open + " --cacert " + other.file:       "name the authority of the member's certificate with --cacert",
		"--endpoints " + mutual:                                 "it has TLS, and was asked without",
		"--endpoints " + mutual + " --cacert " + a.file:         "it asks for a certificate; name one with --cert and --key",
		"--endpoints " + mutual + " --insecure-skip-tls-verify": "it asks for a certificate; name one with --cert and --key",
		"--endpoints " + mutual + " --cacert " + a.file + " --cert " + otherCert + " --key " + otherKey: "by an authority of that member's --client-ca-file",
		"--endpoints " + mutual + " --cacert " + a.file + " --cert " + oldCert + " --key " + oldKey:     "expired at",
		"--endpoints " + a.serve("127.0.0.1", past, false) + " --cacert " + a.file:                      "issue a new one, or correct the clock",
		"--endpoints " + a.serve("127.0.0.2", later, false) + " --cacert " + a.file:                     "name a host in --endpoints that its certificate has",
		"--endpoints " + serve(t, &server{id: 0xa}) + " --cacert " + a.file:                             "it has no TLS; leave out --cacert",
		"--endpoints https://" + serve(t, &server{id: 0xa}):                                             "it has no TLS; leave out --cacert",
		"--endpoints " + deadAddress(t) + " --cacert " + a.file:                                         "connection refused",
		"--endpoints " + open + " --cacert /nowhere":                                                    "--cacert: open /nowhere: no such file or directory; name a PEM file",
		"--endpoints " + open + " --cacert " + key:                                                      "holds no PEM certificate",
		"--endpoints " + open + " --cert " + cert + " --key " + oldKey:                                  "of one certificate and its key",
	} {
		for _, command := range []string{"status", "member remove n2", "leader transfer n2"} {
			var out, errs strings.Builder
			code := run(append(strings.Fields(flags+" --timeout 100ms"), strings.Fields(command)...), &out, &errs)
			if text := out.String() + errs.String(); code != exitFailed || !strings.Contains(text, says) || strings.Count(errs.String(), "\n") != 1 {
				t.Errorf("%s %s: exit status %d; want %d and %q in:\n%s", command, flags, code, exitFailed, says, text)
			}
		}
	}
	expect(t, exitUsage, "", "--cert", cert, "status")
}
