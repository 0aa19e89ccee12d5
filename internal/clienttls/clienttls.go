// Package clienttls says what is wrong with the certificates that octopiid and its clients
// show each other.
package clienttls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"
)

// Fault returns why others will refuse a certificate that is shown for a use, as far as the
// certificate itself tells: it is not valid now, or not for that use. nil: it tells nothing.
func Fault(cert *x509.Certificate, use x509.ExtKeyUsage) error {
	itself := x509.NewCertPool()
	itself.AddCert(cert)
	_, err := cert.Verify(x509.VerifyOptions{Roots: itself, KeyUsages: []x509.ExtKeyUsage{use}})
	var unhandled x509.UnhandledCriticalExtension
	if errors.As(err, &unhandled) {
		return nil // whoever verifies it may know more
	}
	return err
}

// Validity says which certificate is not valid at now, where err says that one is not, and
// what to change. "": err says something else.
func Validity(err error, now time.Time) string {
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		return ""
	}
	c := invalid.Cert
	when := "expired at " + c.NotAfter.UTC().Format(time.RFC3339)
	if now.Before(c.NotBefore) {
		when = "is not valid before " + c.NotBefore.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("the certificate %q %s, and this machine's clock says %s: issue a new one, or correct the clock",
		c.Subject.String(), when, now.UTC().Format(time.RFC3339))
}

// RefusedByOther says whether the error of a handshake is an alert that the other side sent.
func RefusedByOther(err error) bool {
	var alert tls.AlertError
	var network *net.OpError
	return errors.As(err, &alert) || errors.As(err, &network) && network.Op == "remote error"
}
