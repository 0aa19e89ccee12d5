package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/octopii/octopii/internal/clienttls"
)

// security are the flags for TLS, which are those of etcdctl.
type security struct {
	caFile, certFile, keyFile string
	skipVerify                bool
}

func (s *security) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.caFile, "cacert", "", "PEM `file` of the authorities that vouch for the members' certificates (default for https://: those of this machine)")
	flags.StringVar(&s.certFile, "cert", "", "PEM `file` of the certificate to show to members that ask for one")
	flags.StringVar(&s.keyFile, "key", "", "PEM `file` of its key")
	flags.BoolVar(&s.skipVerify, "insecure-skip-tls-verify", false, "use TLS and accept any certificate of a member: for tests only")
}

func (s *security) check() error {
	if (s.certFile == "") != (s.keyFile == "") {
		return usageError{errors.New("--cert and --key belong together: name both, or neither")}
	}
	return nil
}

// config returns nil if no flag asks for TLS.
func (s *security) config() (*tls.Config, error) {
	if *s == (security{}) {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.skipVerify}
	if s.caFile != "" {
		pem, err := os.ReadFile(s.caFile)
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w; name a PEM file that this user may read", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--cacert %s holds no PEM certificate; name a file with the certificates of the authorities", s.caFile)
		}
	}
	if s.certFile != "" {
		cert, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
		if err != nil {
			return nil, fmt.Errorf("--cert %s, --key %s: %w; name PEM files that this user may read, of one certificate and its key", s.certFile, s.keyFile, err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// tlsAt returns what a connection to an endpoint uses: nil for none. As for etcdctl, the
// endpoint's scheme decides, and without one whether a flag asks for TLS.
func (s *security) tlsAt(endpoint string) (*tls.Config, error) {
	cfg, err := s.config()
	switch {
	case err != nil || strings.HasPrefix(endpoint, "http://"):
		return nil, err
	case cfg == nil && strings.HasPrefix(endpoint, "https://"):
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return cfg, nil
}

// hostOf returns HOST:PORT of an endpoint, which may have a scheme.
func hostOf(endpoint string) string {
	if _, address, isURL := strings.Cut(endpoint, "://"); isURL {
		return address
	}
	return endpoint
}

// probeTimeout is how long probe waits for a connection, and for its handshake.
const probeTimeout = 500 * time.Millisecond

// probe says what stands between this program and an endpoint, and what to change. nil:
// nothing that can be seen from here.
func (s *security) probe(endpoint string) error {
	address := hostOf(endpoint)
	cfg, err := s.tlsAt(endpoint)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", address, probeTimeout)
	if err != nil {
		return err
	}
	defer conn.Close() // nothing was asked
	if err := conn.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return err
	}
	if cfg == nil {
		return probePlain(conn)
	}
	cfg.NextProtos = []string{"h2"}
	cfg.ServerName, _, _ = net.SplitHostPort(address)
	secure := tls.Client(conn, cfg)
	err = secure.Handshake()
	if err == nil {
		// A server refuses the certificate of its client after that.
		_, err = secure.Read(make([]byte, 1))
	}
	return s.explain(err, time.Now())
}

// probePlain says if an endpoint that was to be asked without TLS has it.
func probePlain(conn net.Conn) error {
	err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}).Handshake()
	if err == nil || clienttls.RefusedByOther(err) {
		return errors.New("it has TLS, and was asked without; name the authority of its certificate with --cacert, and with --cert and --key a certificate if it asks for one")
	}
	return nil
}

// explain adds to the error of a handshake what to change. An error that has nothing to do
// with TLS is nil.
func (s *security) explain(err error, now time.Time) error {
	var plain tls.RecordHeaderError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var verification *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &plain):
		return errors.New("it has no TLS; leave out --cacert, --cert, --key, --insecure-skip-tls-verify and https://, or start it with --client-cert-file")
	case errors.As(err, &authority):
		return fmt.Errorf("%w; name the authority of the member's certificate with --cacert", err)
	case errors.As(err, &name):
		return fmt.Errorf("%w; name a host in --endpoints that its certificate has, or issue one that has this host", err)
	case clienttls.Validity(err, now) != "":
		return errors.New("its certificate is refused: " + clienttls.Validity(err, now))
	case errors.As(err, &verification):
		return fmt.Errorf("%w; issue another certificate for --client-cert-file of that member", err)
	case !clienttls.RefusedByOther(err):
		return nil
	case s.certFile == "":
		return fmt.Errorf("%w: it asks for a certificate; name one with --cert and --key", err)
	}
	if text := s.ownFault(now); text != "" {
		return fmt.Errorf("%w: it refuses the certificate of --cert %s: %s", err, s.certFile, text)
	}
	return fmt.Errorf("%w: it refuses the certificate of --cert %s; use one for clientAuth, by an authority of that member's --client-ca-file", err, s.certFile)
}

// ownFault says why the certificate of --cert is not valid now, or "".
func (s *security) ownFault(now time.Time) string {
	cfg, err := s.config()
	if err != nil || len(cfg.Certificates) == 0 {
		return ""
	}
	return clienttls.Validity(clienttls.Fault(cfg.Certificates[0].Leaf, x509.ExtKeyUsageClientAuth), now)
}
