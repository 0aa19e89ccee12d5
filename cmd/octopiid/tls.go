package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
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

// clientTLS returns the configuration of the listener for clients.
func clientTLS(cfg config, lg *zap.Logger) (*tls.Config, error) {
	c := &certificates{cfg: cfg, lg: lg, seen: changed(cfg)}
	var err error
	if c.current, err = loadClientTLS(cfg); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.get(), nil },
	}, nil
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
	return next
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
