package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/clienttls"
	"github.com/octopii/octopii/internal/loglimit"
)

// certificates serves clients with what is in the files now: they are read again
// when they changed. A file that cannot be used leaves the old ones in force.
type certificates struct {
	cfg config
	lg  *zap.Logger

	mu sync.Mutex
	// seen is when each file was changed, as of the last attempt to read them.
	seen    [3]time.Time
	current *tls.Config
}

// clientTLS reads the certificates for clients.
func clientTLS(cfg config, lg *zap.Logger) (*certificates, error) {
	c := &certificates{cfg: cfg, lg: lg, seen: changed(cfg)}
	var err error
	if c.current, err = loadClientTLS(cfg); err != nil {
		return nil, err
	}
	c.warnFaults()
	return c, nil
}

// config is the configuration of the listener for clients.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.get(), nil },
	}
}

func (c *certificates) get() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := changed(c.cfg)
	if now == c.seen {
		return c.current
	}
	c.seen = now
	next, err := loadClientTLS(c.cfg)
	if err != nil {
		c.lg.Error("the changed certificates for clients cannot be used; the old ones stay", zap.Error(err))
		return c.current
	}
	c.lg.Info("the certificates for clients were read again")
	c.current = next
	c.warnFaults()
	return next
}

// fault returns why clients refuse the certificate of this member now, as far as it says so
// itself.
func (c *certificates) fault() error {
	for _, err := range ownFaults(c.get()) {
		return err
	}
	return nil
}

// ownFaults returns why clients will refuse what a member shows them, for each certificate.
func ownFaults(cfg *tls.Config) (faults []error) {
	for _, der := range cfg.Certificates[0].Certificate {
		if cert, err := x509.ParseCertificate(der); err == nil {
			if err := clienttls.Fault(cert, serverUse(cert)); err != nil {
				faults = append(faults, err)
			}
		}
	}
	return faults
}

// warnFaults says which of the certificates that were read cannot be used as they are: they
// are in force all the same, as clocks may be wrong.
func (c *certificates) warnFaults() {
	now := time.Now()
	warn := func(flag, file, consequence string, err error) {
		advice := clienttls.Validity(err, now)
		if advice == "" {
			advice = "issue one for serverAuth"
		}
		c.lg.Warn(consequence+"; "+advice, zap.String("flag", flag), zap.String("file", file), zap.Error(err))
	}
	for _, err := range ownFaults(c.current) {
		warn("--client-cert-file", c.cfg.ClientCertFile, "clients will refuse this member's certificate", err)
	}
	for _, cert := range authorities(c.cfg.ClientCAFile) {
		if err := clienttls.Fault(cert, x509.ExtKeyUsageAny); err != nil {
			warn("--client-ca-file", c.cfg.ClientCAFile, "clients with a certificate of this authority will be refused", err)
		}
	}
}

// serverUse is what a certificate must be for: those that vouch for another one may be for
// anything.
func serverUse(cert *x509.Certificate) x509.ExtKeyUsage {
	if cert.IsCA {
		return x509.ExtKeyUsageAny
	}
	return x509.ExtKeyUsageServerAuth
}

// authorities returns those in a file that can be read.
func authorities(file string) (certs []*x509.Certificate) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
	return certs
}

// handshakes logs those of clients that failed, one in refusalsEvery at most, so that
// strangers cannot fill the log. Its methods may be called from several goroutines.
type handshakes struct {
	lg *zap.Logger
	// own says why clients refuse this member's certificate; nil: nothing is known.
	own   func() error
	limit loglimit.Limit
}

// failed is etcdapi.Config.HandshakeFailed.
func (h *handshakes) failed(remote net.Addr, err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return // it went away, as a check whether the port is open does
	}
	now := time.Now()
	others, ok := h.limit.Pass(now)
	if !ok {
		return
	}
	var own error
	if h.own != nil && clienttls.RefusedByOther(err) {
		own = h.own()
	}
	h.lg.Warn("a client was refused in its TLS handshake: "+handshakeAdvice(err, own, now),
		zap.Stringer("remote", remote), zap.Error(err), zap.Int("others since the last line", others))
}

// handshakeAdvice says what to change after the handshake of a client failed. own is why
// clients refuse this member's certificate, if that is known.
func handshakeAdvice(err, own error, now time.Time) string {
	var plain tls.RecordHeaderError
	var authority x509.UnknownAuthorityError
	var network net.Error
	switch validity := clienttls.Validity(err, now); {
	case validity != "":
		return validity
	case errors.As(err, &plain):
		return "it does not use TLS; give it endpoints with https://, and the authority of --client-cert-file (--cacert of etcdctl and octopiictl)"
	case errors.As(err, &authority):
		return "its certificate is of an authority that is not in --client-ca-file; issue one by an authority that is, or add its authority there"
	case strings.Contains(err.Error(), "client didn't provide a certificate"):
		return "it showed no certificate, which --client-ca-file asks for; give it one (--cert and --key of etcdctl and octopiictl)"
	case clienttls.RefusedByOther(err) && own != nil:
		advice := clienttls.Validity(own, now)
		if advice == "" {
			advice = own.Error()
		}
		return "it does not accept the certificate of --client-cert-file, rightly; " + advice
	case clienttls.RefusedByOther(err):
		return "it does not accept the certificate of --client-cert-file; give it the authority of that (--cacert of etcdctl and octopiictl), and an endpoint that the certificate names"
	case errors.As(err, &network) && network.Timeout():
		return "it took too long"
	}
	return "see the error"
}

// changed returns when each file was changed; zero for one that is not there.
func changed(cfg config) (at [3]time.Time) {
	for i, path := range []string{cfg.ClientCertFile, cfg.ClientKeyFile, cfg.ClientCAFile} {
		if info, err := os.Stat(path); err == nil {
			at[i] = info.ModTime()
		}
	}
	return at
}

func loadClientTLS(cfg config) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(cfg.ClientCertFile, cfg.ClientKeyFile)
	if err != nil {
		return nil, fmt.Errorf("--client-cert-file %s, --client-key-file %s: %w; name PEM files that this user may read, of one certificate and its key", cfg.ClientCertFile, cfg.ClientKeyFile, err)
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
	if cfg.ClientCAFile == "" {
		return out, nil
	}
	pem, err := os.ReadFile(cfg.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("--client-ca-file: %w; name a PEM file that this user may read", err)
	}
	out.ClientCAs = x509.NewCertPool()
	out.ClientAuth = tls.RequireAndVerifyClientCert
	if !out.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--client-ca-file %s holds no PEM certificate; name a file with the certificates of the authorities", cfg.ClientCAFile)
	}
	return out, nil
}
