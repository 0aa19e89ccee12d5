package tcp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
)

// TLS names the PEM files of mutual TLS. Either all three are set or none.
type TLS struct {
	// CertFile and KeyFile show who this member is, when it listens and when it
	// dials: the certificate must allow both uses and name the host that the
	// other members dial.
	CertFile, KeyFile string
	// CAFile holds the authorities that may vouch for a peer.
	CAFile string
}

// load returns nil when TLS is not wanted.
func (t TLS) load() (*tls.Config, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	if t.CertFile == "" || t.KeyFile == "" || t.CAFile == "" {
		return nil, errors.New("tcp: TLS between members is mutual: set CertFile, KeyFile and CAFile")
	}
	cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tcp: load certificate %s with key %s: %w", t.CertFile, t.KeyFile, err)
	}
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, fmt.Errorf("tcp: load authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tcp: load authorities: %s holds no PEM certificate", t.CAFile)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		RootCAs:      pool,
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		// A ticket that nobody reads would turn an orderly close into a reset,
		// which can overtake data. Connections live long: none is needed.
		SessionTicketsDisabled: true,
	}, nil
}

// clientTLS wraps a dialed connection; config is nil for plain TCP.
func clientTLS(raw net.Conn, config *tls.Config, address string) (net.Conn, error) {
	if config == nil {
		return raw, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	config = config.Clone()
	config.ServerName = host
	return tls.Client(raw, config), nil
}

// serverTLS wraps an accepted connection; config is nil for plain TCP.
func serverTLS(raw net.Conn, config *tls.Config) net.Conn {
	if config == nil {
		return raw
	}
	return tls.Server(raw, config)
}
