package tcp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/proto"
)

// TLS names the PEM files of mutual TLS. Either all three are set or none.
type TLS struct {
	// CertFile and KeyFile show who this member is, when it listens and when it
	// dials: the certificate must allow both uses and name the host that the
	// other members dial.
	CertFile, KeyFile string
	// CAFile holds the authorities that may vouch for a peer.
	CAFile string
	// AllowedSANs, if there are any, tell peers from others that the same authorities vouch
	// for, such as clients: a peer's certificate must have one of them as a DNS name, IP
	// address or URI, or as its common name. Both sides check it.
	AllowedSANs []string
}

// credentials are the files of TLS as they were read last. They are read again when one of
// them has changed; where that fails the earlier ones stay in use, and the log says so.
type credentials struct {
	files TLS
	log   *zap.Logger

	mu      sync.Mutex
	current *tls.Config
	stamps  [3]stamp
	checked time.Time
}

// stamp tells whether a file has changed.
type stamp struct {
	modified time.Time
	bytes    int64
}

// reloadEvery is how often the files are looked at, at most.
const reloadEvery = time.Second

// newCredentials returns nil when TLS is not wanted.
func newCredentials(files TLS, log *zap.Logger) (*credentials, error) {
	if files.CertFile == "" && files.KeyFile == "" && files.CAFile == "" {
		if len(files.AllowedSANs) > 0 {
			return nil, errors.New("tcp: AllowedSANs are set, and there are no certificates: set CertFile, KeyFile and CAFile, too")
		}
		return nil, nil
	}
	if files.CertFile == "" || files.KeyFile == "" || files.CAFile == "" {
		return nil, errors.New("tcp: TLS between members is mutual: set CertFile, KeyFile and CAFile")
	}
	c := &credentials{files: files, log: log, stamps: files.stamps(), checked: time.Now()}
	var err error
	c.current, err = files.load()
	return c, err
}

func (t TLS) stamps() (s [3]stamp) {
	for i, name := range []string{t.CertFile, t.KeyFile, t.CAFile} {
		if info, err := os.Stat(name); err == nil {
			s[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return s
}

// config returns what the next connection uses.
func (c *credentials) config() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < reloadEvery {
		return c.current
	}
	c.checked = time.Now()
	stamps := c.files.stamps()
	if stamps == c.stamps {
		return c.current
	}
	loaded, err := c.files.load()
	c.stamps = stamps // a file that is bad is tried again when it changes
	if err != nil {
		c.log.Error("the changed certificate files cannot be used; the earlier ones stay in use: correct the files", zap.Error(err))
		return c.current
	}
	c.current = loaded
	c.log.Info("certificate files were read again", zap.String("certificate", describe(loaded.Certificates[0].Leaf)))
	return c.current
}

func (t TLS) load() (*tls.Config, error) {
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
		MinVersion:       tls.VersionTLS13,
		Certificates:     []tls.Certificate{cert},
		RootCAs:          pool,
		ClientCAs:        pool,
		ClientAuth:       tls.RequireAndVerifyClientCert,
		VerifyConnection: t.allowed,
		// A ticket that nobody reads would turn an orderly close into a reset,
		// which can overtake data. Connections live long: none is needed.
		SessionTicketsDisabled: true,
	}, nil
}

// allowed says whether a verified certificate is one of a peer.
func (t TLS) allowed(state tls.ConnectionState) error {
	if len(t.AllowedSANs) == 0 {
		return nil
	}
	leaf := state.PeerCertificates[0]
	names := namesOf(leaf)
	for _, allowed := range t.AllowedSANs {
		if slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, allowed) }) {
			return nil
		}
	}
	return &notPeerError{leaf, t.AllowedSANs}
}

// notPeerError: a certificate has none of the names that peers must have.
type notPeerError struct {
	certificate *x509.Certificate
	allowed     []string
}

func (e *notPeerError) Error() string {
	return fmt.Sprintf("the certificate of %s is none of a peer: it must have one of the names %s", describe(e.certificate), strings.Join(e.allowed, ", "))
}

// namesOf returns what a certificate names.
func namesOf(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, uri := range c.URIs {
		names = append(names, uri.String())
	}
	if c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

// describe names a certificate for people.
func describe(c *x509.Certificate) string {
	return fmt.Sprintf("%q (names: %s; valid from %s to %s; signed by %q)", c.Subject.String(), strings.Join(namesOf(c), ", "),
		c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), c.Issuer.String())
}

// faults says why other members will refuse this member's own certificate, as far as it can
// know: they are likely to have the same authorities, and dial its address. Some clusters
// have other names than addresses, through AllowedSANs or proxies, so it warns only.
func (c *credentials) faults(address string) (faults []error) {
	config := c.config()
	leaf := config.Certificates[0].Leaf
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	intermediates := x509.NewCertPool()
	for _, der := range config.Certificates[0].Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			intermediates.AddCert(cert)
		}
	}
	if err := leaf.VerifyHostname(host); err != nil {
		faults = append(faults, err)
	}
	verify := func(use x509.ExtKeyUsage) error {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: config.RootCAs, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{use}})
		return err
	}
	if err := verify(x509.ExtKeyUsageAny); err != nil {
		faults = append(faults, err) // it would come again for each use
	} else {
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if err := verify(use); err != nil {
				name := map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "serverAuth", x509.ExtKeyUsageClientAuth: "clientAuth"}[use]
				faults = append(faults, fmt.Errorf("it cannot be used for %s: %w", name, err))
			}
		}
	}
	if err := c.files.allowed(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}); err != nil {
		faults = append(faults, err)
	}
	return faults
}

// warnFaults logs what is wrong with this member's own certificate.
func (c *credentials) warnFaults(address string) {
	for _, fault := range c.faults(address) {
		c.log.Warn("other members will refuse the certificate of this member: "+certificateAdvice(fault, time.Now()),
			zap.String("file", c.files.CertFile), zap.String("certificate", describe(c.config().Certificates[0].Leaf)),
			zap.String("address", address), zap.Error(fault))
	}
}

// certificateAdvice says what to change about a certificate that was refused for err.
func certificateAdvice(err error, now time.Time) string {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var notPeer *notPeerError
	switch {
	case errors.As(err, &notPeer):
		return "issue one with one of the names that peers must have, or allow one of its names on all members"
	case errors.As(err, &name):
		return "issue one that names the host of the member's peer address"
	case errors.As(err, &authority):
		return "issue one by an authority that all members have in their file of authorities, or add its authority there"
	case !errors.As(err, &invalid):
		return "issue another one"
	case invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore):
		return fmt.Sprintf("%s is not valid before %s, and this machine's clock says %s: correct the clock, or issue one that is valid now",
			certificateName(invalid.Cert), invalid.Cert.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case invalid.Reason == x509.Expired:
		return fmt.Sprintf("%s expired at %s, and this machine's clock says %s: issue a new one, or correct the clock",
			certificateName(invalid.Cert), invalid.Cert.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case invalid.Reason == x509.IncompatibleUsage:
		return "issue one for both serverAuth and clientAuth, as members dial and listen with it"
	}
	return "issue another one"
}

// certificateName tells a certificate from those that vouch for it, which may expire, too.
func certificateName(c *x509.Certificate) string { return strconv.Quote(c.Subject.String()) }

// refusedByOther says whether the error of a handshake is an alert that the other side sent.
func refusedByOther(err error) bool {
	var alert tls.AlertError
	var network *net.OpError
	return errors.As(err, &alert) || errors.As(err, &network) && network.Op == "remote error"
}

// explainTLS adds to an error of c's handshake what people need to find the wrong certificate,
// or the member without one.
func (c *conn) explainTLS(err error) error {
	own := c.t.tls
	if own == nil || err == nil {
		return err
	}
	var verification *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &verification) && len(verification.UnverifiedCertificates) > 0:
		return fmt.Errorf("the certificate of the other side, %s, is not accepted; %s: %w",
			describe(verification.UnverifiedCertificates[0]), certificateAdvice(err, time.Now()), err)
	case refusedByOther(err):
		return fmt.Errorf("the other side does not accept the certificate of this member, %s, %s; see the log of the other side: %w",
			own.files.CertFile, describe(own.config().Certificates[0].Leaf), err)
	case errors.As(err, &plain):
		return fmt.Errorf("the other side does not use TLS, and this member does: "+oneSidedAdvice+": %w", err)
	case !c.inbound && c.endedBeforeTLS(err): // whoever looks whether a port is open ends so, too
		return fmt.Errorf("the other side ended the connection when TLS began; if it has no certificates: "+oneSidedAdvice+": %w", err)
	}
	return err
}

const oneSidedAdvice = "give certificates to all members, or to none"

// refusePlain tells who dialed without TLS that it is used here, in plain text, as nothing
// else can be read there.
func refusePlain(err error) {
	var plain tls.RecordHeaderError
	if !errors.As(err, &plain) || plain.Conn == nil {
		return
	}
	hello := octopiipb.Hello{Version: protocolVersion, Refused: "members use TLS among each other here, and this connection has none: " + oneSidedAdvice}
	if body, err := hello.Marshal(); err == nil {
		_, _ = plain.Conn.Write(newFrame(frameHello, body))
	}
}

// endedBeforeTLS says whether the other side closed the connection before it was encrypted.
func (c *conn) endedBeforeTLS(err error) bool {
	nc, ok := c.nc.(*tls.Conn)
	return ok && !nc.ConnectionState().HandshakeComplete && (isEOF(err) || errors.Is(err, syscall.ECONNRESET))
}

// client wraps a dialed connection; c is nil for plain TCP.
func (c *credentials) client(raw net.Conn, address string) (net.Conn, error) {
	if c == nil {
		return raw, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	config := c.config().Clone()
	config.ServerName = host
	return tls.Client(raw, config), nil
}

// server wraps an accepted connection; c is nil for plain TCP.
func (c *credentials) server(raw net.Conn) net.Conn {
	if c == nil {
		return raw
	}
	return tls.Server(raw, c.config())
}

// Authenticated implements transport.Authenticated.
func (t *Transport) Authenticated() bool { return t.tls != nil }
