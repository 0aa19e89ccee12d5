package tcp

import (
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
