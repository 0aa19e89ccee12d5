package tcp

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octopii/octopii/transport/transporttest"
)

// TestAllowedSANs: a certificate of the right authority with none of the names is refused by
// whoever checks, as dialer and as acceptor.
func TestAllowedSANs(t *testing.T) {
	home := newAuthority(t)
	with := func(names ...string) TLS {
		files := home.issue(t)
		files.AllowedSANs = names
		return files
	}
	strict, hs := start(t, 2, Config{TLS: with("member.example", "10.0.0.9")})
	open, _ := start(t, 1, Config{TLS: with()})
	if _, err := open.Probe(t.Context(), strict.Address()); err == nil {
		t.Error("an acceptor took a certificate without an allowed name")
	}
	if _, err := strict.Probe(t.Context(), open.Address()); err == nil || !strings.Contains(err.Error(), "member.example") {
		t.Errorf("a dialer with allowed names: %v, want an error with them", err)
	}
	if n := len(hs.Accepted()); n != 0 {
		t.Errorf("Accept was asked %d times", n)
	}
	for _, name := range []string{"127.0.0.1", "Member A", "MEMBER.example"} {
		files := home.issueNamed(t, "member a", "member.example")
		files.AllowedSANs = []string{"unknown", name}
		b, _ := start(t, 3, Config{TLS: files})
		a, _ := start(t, 4, Config{TLS: files})
		if _, err := a.Probe(t.Context(), b.Address()); err != nil {
			t.Errorf("allowed name %q: %v", name, err)
		}
	}
}

// TestWrongCertificateIsNamed: the member that has a wrong certificate says so at its start and
// when others refuse it, and the others say whose it is.
func TestWrongCertificateIsNamed(t *testing.T) {
	home := newAuthority(t)
	core, logs := observer.New(zap.WarnLevel)
	wrong := home.issueAt(t, net.IPv4(10, 1, 1, 1), "the wrong one")
	b, _ := start(t, 2, Config{TLS: wrong, Logger: zap.New(core)})
	if logs.FilterMessageSnippet("will refuse the certificate of this member").Len() == 0 {
		t.Errorf("at its start the member logged %v", logs.All())
	}
	a, _ := start(t, 1, Config{TLS: home.issue(t)})
	_, err := a.Probe(t.Context(), b.Address())
	if err == nil || !strings.Contains(err.Error(), "the wrong one") || !strings.Contains(err.Error(), "10.1.1.1") {
		t.Errorf("the dialer is told %v, want the certificate's names", err)
	}
	transporttest.Until(t, "the member learns that it was refused", func() bool {
		for _, entry := range logs.FilterMessage("refused a connection").All() {
			if text, _ := entry.ContextMap()["error"].(string); strings.Contains(text, wrong.CertFile) && strings.Contains(text, "the wrong one") {
				return true
			}
		}
		return false
	})
}

// TestTLSOnOneSide: where one of two members has certificates and the other one has none, both
// logs say so, whichever dials.
func TestTLSOnOneSide(t *testing.T) {
	const advice = oneSidedAdvice
	said := func(logs *observer.ObservedLogs) bool {
		for _, entry := range logs.All() {
			if strings.Contains(fmt.Sprint(entry.ContextMap()), advice) {
				return true
			}
		}
		return false
	}
	for name, withTLS := range map[string]bool{"the dialer has": true, "the acceptor has": false} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			dialer, acceptor := Config{}, Config{Logger: zap.New(core)}
			if withTLS {
				dialer.TLS = newAuthority(t).issue(t)
			} else {
				acceptor.TLS = newAuthority(t).issue(t)
			}
			a, _ := start(t, 1, dialer)
			b, _ := start(t, 2, acceptor)
			if _, err := a.Probe(t.Context(), b.Address()); err == nil || !strings.Contains(err.Error(), advice) {
				t.Errorf("the dialer is told %v; want %q in it", err, advice)
			}
			transporttest.Until(t, "the acceptor's log says so", func() bool { return said(logs) })
		})
	}
}

// TestCertificateAdvice: each fault of a certificate has advice of its own, once, at the start
// of the member that has it and where another one refuses it.
func TestCertificateAdvice(t *testing.T) {
	home, foreign := newAuthority(t), newAuthority(t)
	like := func(change func(*x509.Certificate)) TLS { return home.issueLike(t, change) }
	byForeign := foreign.issue(t)
	byForeign.CAFile = home.issue(t).CAFile
	notPeer := home.issue(t)
	notPeer.AllowedSANs = []string{"member.example"}
	for name, c := range map[string]struct {
		files  TLS
		advice string
		// refused: a dialer refuses it, too, and says so.
		refused bool
	}{
		"wrong name": {like(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 1, 1, 1)} }), "names the host of the member's peer address", true},
		"expired": {like(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}), "issue a new one, or correct the clock", true},
		"not yet valid":     {like(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }), "correct the clock, or issue one that is valid now", true},
		"unknown authority": {byForeign, "by an authority that all members have", true},
		"for servers only":  {like(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), "for both serverAuth and clientAuth", false},
		"for clients only":  {like(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }), "for both serverAuth and clientAuth", true},
		"no name of a peer": {notPeer, "one of the names that peers must have", false},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			b, _ := start(t, 2, Config{TLS: c.files, Logger: zap.New(core)})
			faults := logs.FilterMessageSnippet("will refuse the certificate of this member").All()
			if len(faults) != 1 || !strings.Contains(faults[0].Message, c.advice) {
				t.Errorf("at its start the member says %v; want one line with %q", faults, c.advice)
			}
			a, _ := start(t, 1, Config{TLS: home.issue(t)})
			_, err := a.Probe(t.Context(), b.Address())
			if c.refused && (err == nil || !strings.Contains(err.Error(), c.advice)) {
				t.Errorf("the dialer is told %v; want %q in it", err, c.advice)
			}
		})
	}
}

// TestCertificatesReload: changed files are used, and bad ones are not.
func TestCertificatesReload(t *testing.T) {
	old, next := newAuthority(t), newAuthority(t)
	core, logs := observer.New(zap.InfoLevel)
	files := old.issue(t)
	b, _ := start(t, 2, Config{TLS: files, Logger: zap.New(core)})
	probe := func(a *authority) error {
		tr, _ := start(t, 1, Config{TLS: a.issue(t)})
		_, err := tr.Probe(t.Context(), b.Address())
		return err
	}
	change := func(from TLS) {
		for to, name := range map[string]string{files.CertFile: from.CertFile, files.KeyFile: from.KeyFile, files.CAFile: from.CAFile} {
			content, err := os.ReadFile(name)
			if err == nil {
				err = os.WriteFile(to, content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		b.tls.mu.Lock()
		b.tls.checked, b.tls.stamps = time.Time{}, [3]stamp{}
		b.tls.mu.Unlock()
	}
	bad := old.issue(t)
	bad.CAFile = bad.KeyFile
	change(bad)
	if err := probe(old); err != nil {
		t.Errorf("with a bad file the earlier certificates are not in use: %v", err)
	}
	if logs.FilterMessageSnippet("cannot be used").Len() != 1 {
		t.Errorf("the log says %v", logs.All())
	}
	change(next.issue(t))
	if err := probe(next); err != nil {
		t.Errorf("after the change: %v", err)
	}
	if err := probe(old); err == nil {
		t.Error("after the change the earlier authority is still trusted")
	}
}
