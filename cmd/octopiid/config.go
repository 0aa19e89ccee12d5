package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
	"go.uber.org/zap/zapcore"

	"github.com/octopii/octopii/node/comeback"
)

// envPrefix begins every environment variable that is ours: the rest is a
// flag's name in capitals, with underscores.
const envPrefix = "OCTOPII_"

// config is what the command start needs to know. A key is the same in flags,
// environment and file.
type config struct {
	Name                string   `koanf:"name"`
	DataDir             string   `koanf:"data-dir"`
	ClientAddr          string   `koanf:"client-addr"`
	PeerAddr            string   `koanf:"peer-addr"`
	MetricsAddr         string   `koanf:"metrics-addr"`
	AdvertiseClientAddr string   `koanf:"advertise-client-addr"`
	AdvertisePeerAddr   string   `koanf:"advertise-peer-addr"`
	Bootstrap           bool     `koanf:"bootstrap"`
	Join                []string `koanf:"join"`
	FailoverByTimeout   bool     `koanf:"failover-by-timeout"`
	Wait                bool     `koanf:"wait"`
	Expect              int      `koanf:"expect"`
	NotOf               string   `koanf:"not-of"`
	PeerCertFile        string   `koanf:"peer-cert-file"`
	PeerKeyFile         string   `koanf:"peer-key-file"`
	PeerCAFile          string   `koanf:"peer-ca-file"`
	PeerAllowedSANs     []string `koanf:"peer-allowed-san"`
	ClientCertFile      string   `koanf:"client-cert-file"`
	ClientKeyFile       string   `koanf:"client-key-file"`
	ClientCAFile        string   `koanf:"client-ca-file"`
	WAL                 string   `koanf:"wal"`
	LogLevel            string   `koanf:"log-level"`

	// FoundAfter is for how long a member with Bootstrap listens before it founds.
	FoundAfter time.Duration `koanf:"found-after"`
	// DiskStallLimit is node.Config.StallLimit.
	DiskStallLimit time.Duration `koanf:"disk-stall-limit"`
	// AcceptLoss is node.Config.AcceptLoss.
	AcceptLoss bool `koanf:"accept-loss"`
	// ScrubInterval is how often the database is verified, and compared; 0: never.
	ScrubInterval time.Duration `koanf:"scrub-interval"`
	// DiskReserve is kv.Options.ReserveBytes in MiB.
	DiskReserve int64 `koanf:"disk-reserve"`
	// ClientConnsMax bounds the connections of clients. 0: what the limit of open
	// files leaves.
	ClientConnsMax int `koanf:"client-conns-max"`
	// These bound what clients may take: see etcdapi.Config.
	RequestTimeout       time.Duration `koanf:"request-timeout"`
	MaxConcurrentStreams uint32        `koanf:"max-concurrent-streams"`
	AnswerBytesMax       int64         `koanf:"answer-bytes-max"`
	AnswerStallTimeout   time.Duration `koanf:"answer-stall-timeout"`
	IncomingBytesMax     int64         `koanf:"incoming-bytes-max"`
	IncomingTimeout      time.Duration `koanf:"incoming-timeout"`
	// LockTimeout is for how long a lock of the data directory that another process
	// holds is waited for.
	LockTimeout time.Duration `koanf:"lock-timeout"`
	// Unknown are environment variables that are ignored.
	Unknown []string `koanf:"-"`
}

// configFlag names the file; it can be set by flag and environment only.
const configFlag = "config"

func addFlags(f *pflag.FlagSet) {
	f.String("name", "", "name of this member, for people (default: its ID)")
	f.String("data-dir", "", "directory that holds this member's state")
	f.String("client-addr", "127.0.0.1:2379", "`host:port` to listen on for clients")
	f.String("peer-addr", "127.0.0.1:2380", "`host:port` to listen on for other members")
	f.String("metrics-addr", "", "`host:port` to serve /metrics, /livez and /readyz on (default: nowhere)")
	f.String("advertise-client-addr", "", "`host:port` where clients reach this member (default: client-addr)")
	f.String("advertise-peer-addr", "", "`host:port` where other members reach this one (default: peer-addr)")
	f.Bool("bootstrap", false, "found a new cluster as its first member, alone; never where it was a member before, nor where an address of --join is of a cluster or does not answer; ignored once the directory is initialized")
	f.Duration("found-after", 5*time.Second, "with --bootstrap: for how long a first member listens for a cluster that takes it for a member, before it founds; 0: it does not, which is for an address that nobody can know")
	f.Bool("failover-by-timeout", false, "with --bootstrap: members of the cluster wait for an election timeout also where the leader's process seems dead; for networks that refuse connections to members that live")
	f.StringSlice("join", nil, "peer `addresses` of the members, this one may be among them, and at every start of where to look for it: one that is right is enough")
	f.Int("expect", 0, "with --join, the same on every member: found a cluster when all of --join are there, so many with this one, and empty; else join theirs; 0: only join")
	f.String("not-of", "", "`ID` of another cluster that claims the address of this member, as the log says, and is wrong: this member serves, and its claims count no more; it is kept in the directory")
	f.Bool("wait", false, "wait to be added to a cluster by octopiictl member add; where its disk was wiped it takes its place again by itself; ignored once the directory is initialized")
	f.String("peer-cert-file", "", "certificate for other members")
	f.String("peer-key-file", "", "key of the certificate for other members")
	f.String("peer-ca-file", "", "authorities that vouch for other members")
	f.StringSlice("peer-allowed-san", nil, "`names` of which a peer's certificate must have one, as a DNS name, IP address, URI or common name; without it every certificate of the authorities will do, also one of a client")
	f.String("client-cert-file", "", "certificate for clients")
	f.String("client-key-file", "", "key of the certificate for clients")
	f.String("client-ca-file", "", "authorities that vouch for clients; without it every client is served")
	addWALFlag(f)
	f.Duration("disk-stall-limit", time.Minute, "end when the disk has not answered for so long; 0: never")
	f.Bool("accept-loss", false, "for one start of members of a majority that forgot, which the log names: go on without the entries that are missing on all members that run; where a majority answers it changes nothing")
	f.Duration("scrub-interval", 24*time.Hour, "read the whole database so often to verify it, 10 MB a second, and compare it with the others'; 0: never")
	f.Int64("disk-reserve", 0, "`MiB` of the disk to keep for the database, so that a full disk stops nothing but writes; 0: a sixteenth of the disk, 16 at least and 64 at most")
	f.Int("client-conns-max", 0, "connections of clients at a time; 0: what the limit of open files leaves")
	f.Duration("request-timeout", 7*time.Second, "answer a client after so long at the latest, so that it asks another member")
	f.Uint32("max-concurrent-streams", 1000, "how many requests of one client connection are under way; more of them wait at the client")
	f.Int64("answer-bytes-max", 0, "`bytes` of memory for answers in all, until clients have taken them; an answer needs twice its size (default: a quarter of the memory, 1 GiB at most)")
	f.Duration("answer-stall-timeout", 30*time.Second, "close the connection of a client that takes nothing of an answer for so long")
	f.Int64("incoming-bytes-max", 0, "`bytes` of memory for requests in all that have not arrived as a whole; where it is short, the oldest ones end (default: an eighth of the memory, 512 MiB at most)")
	f.Duration("incoming-timeout", 10*time.Second, "end a request that takes so long to arrive")
	f.Duration("lock-timeout", 30*time.Second, "how long to wait for another process, such as a backup, that has locked the data directory; 0: not at all")
	f.String("log-level", "info", "debug, info, warn or error; SIGHUP reads it again")
	f.String(configFlag, "", "YAML file with any of these keys")
}

// loadConfig merges flags, environment, file and defaults, the earlier ones
// before the later ones, and checks the outcome.
func loadConfig(flags *pflag.FlagSet, environ []string) (config, error) {
	fromEnv := koanf.New(".")
	if err := fromEnv.Load(envProvider(environ), nil); err != nil {
		return config{}, fmt.Errorf("read the environment: %w", err)
	}
	// Not ours, whoever set it: Kubernetes does, for a Service that is named octopii.
	var ignored []string
	for _, key := range unknownKeys(fromEnv, flags) {
		fromEnv.Delete(key)
		ignored = append(ignored, envPrefix+envName(key))
	}
	if err := checkValues(fromEnv, func(key string) string { return envPrefix + envName(key) }); err != nil {
		return config{}, err
	}
	merged := koanf.New(".")
	path, _ := flags.GetString(configFlag)
	if path == "" {
		path = fromEnv.String(configFlag)
	}
	if path != "" {
		if err := loadFile(merged, path, flags); err != nil {
			return config{}, err
		}
	}
	if err := merged.Merge(fromEnv); err != nil {
		return config{}, fmt.Errorf("merge the environment: %w", err)
	}
	// The provider takes a default only where there is no other value.
	if err := merged.Load(posflag.Provider(flags, ".", merged), nil); err != nil {
		return config{}, fmt.Errorf("read flags: %w", err)
	}
	c, err := decode(merged)
	c.Unknown = ignored
	return c, err
}

func envProvider(environ []string) koanf.Provider {
	return env.Provider(".", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			name = strings.TrimPrefix(name, envPrefix)
			return strings.ToLower(strings.ReplaceAll(name, "_", "-")), value
		},
	})
}

func envName(key string) string { return strings.ToUpper(strings.ReplaceAll(key, "-", "_")) }

func loadFile(k *koanf.Koanf, path string, flags *pflag.FlagSet) error {
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
		return fmt.Errorf("--%s: read %s: %w; name a YAML file that this user may read", configFlag, path, err)
	}
	unknown := unknownKeys(k, flags)
	if k.Exists(configFlag) {
		unknown = append(unknown, configFlag)
	}
	if len(unknown) > 0 {
		return fmt.Errorf("--%s: unknown key %q in %s; see octopiid start --help", configFlag, unknown[0], path)
	}
	return checkValues(k, func(key string) string { return fmt.Sprintf("--%s: %s in %s", configFlag, key, path) })
}

// checkValues checks that each value is one that its flag takes. name says where a key is
// from. Lists are checked when they are decoded.
func checkValues(k *koanf.Koanf, name func(key string) string) error {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	addFlags(flags)
	for _, key := range k.Keys() {
		flag, value := flags.Lookup(key), k.Get(key)
		if flag == nil || value == nil || flag.Value.Type() == "stringSlice" {
			continue
		}
		if err := flag.Value.Set(fmt.Sprint(value)); err != nil {
			return fmt.Errorf("%s: %q is no %s; %s", name(key), fmt.Sprint(value), kindOf(flag), exampleOf(flag))
		}
	}
	return nil
}

// kindOf and exampleOf describe the values of a flag to people.
func kindOf(flag *pflag.Flag) string {
	switch flag.Value.Type() {
	case "bool", "duration":
		return flag.Value.Type()
	}
	return "number"
}

func exampleOf(flag *pflag.Flag) string {
	switch flag.Value.Type() {
	case "bool":
		return "use true or false"
	case "duration":
		return "name a duration such as 30s or 5m"
	}
	return "name a whole number such as 3"
}

// changedKeys returns the keys, but for the log level, in which two configurations
// differ.
func changedKeys(a, b config) (keys []string) {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		key := va.Type().Field(i).Tag.Get("koanf")
		if key != "" && key != "-" && key != "log-level" && !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			keys = append(keys, key)
		}
	}
	return keys
}

// unknownKeys returns those keys, in order, for which there is no flag.
func unknownKeys(k *koanf.Koanf, flags *pflag.FlagSet) []string {
	keys := slices.DeleteFunc(k.Keys(), func(key string) bool { return key != "help" && flags.Lookup(key) != nil })
	slices.Sort(keys)
	return keys
}

func decode(k *koanf.Koanf) (config, error) {
	var c config
	err := k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result:           &c,
		TagName:          "koanf",
		WeaklyTypedInput: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			mapstructure.StringToSliceHookFunc(","), mapstructure.StringToTimeDurationHookFunc()),
	}})
	if err != nil {
		return config{}, fmt.Errorf("read the configuration: %w", err)
	}
	for i := range c.Join {
		c.Join[i] = strings.TrimSpace(c.Join[i]) // "a, b" is how people write lists
	}
	return c, c.check()
}

// check says what is wrong with c by itself.
func (c config) check() error {
	if c.DataDir == "" {
		return errors.New("--data-dir is missing; name the directory that holds this member's state")
	}
	if err := checkWAL(c.WAL); err != nil {
		return err
	}
	if c.DiskStallLimit != 0 && c.DiskStallLimit < time.Second {
		return fmt.Errorf("--disk-stall-limit %v: name a duration such as 1m, of 1s at least, or 0 for none", c.DiskStallLimit)
	}
	if c.ScrubInterval < 0 {
		return fmt.Errorf("--scrub-interval %v: name a duration such as 24h, or 0 for never", c.ScrubInterval)
	}
	if c.DiskReserve != 0 && c.DiskReserve < 4 || c.DiskReserve > 1<<20 {
		return fmt.Errorf("--disk-reserve %d: name a number of MiB from 4 to %d, or 0 for a part of the disk", c.DiskReserve, 1<<20)
	}
	if c.ClientConnsMax < 0 {
		return fmt.Errorf("--client-conns-max %d: name a number of connections, or 0 for what the limit of open files leaves", c.ClientConnsMax)
	}
	if err := c.checkLimits(); err != nil {
		return err
	}
	if c.FoundAfter < 0 {
		return fmt.Errorf("--found-after %v is negative; name a duration such as 5s, or 0 to found at once", c.FoundAfter)
	}
	if c.NotOf != "" && parseID(c.NotOf) == 0 {
		return fmt.Errorf("--not-of %q: name a cluster by its ID in hexadecimal, as the log does", c.NotOf)
	}
	if c.LockTimeout < 0 {
		return fmt.Errorf("--lock-timeout %v is negative; name a duration such as 30s, or 0 to end at once", c.LockTimeout)
	}
	if _, err := zapcore.ParseLevel(c.LogLevel); err != nil {
		return fmt.Errorf("--log-level %q: use debug, info, warn or error", c.LogLevel)
	}
	for _, a := range []struct{ flag, addr, advertised string }{
		{"client-addr", c.ClientAddr, c.AdvertiseClientAddr},
		{"peer-addr", c.PeerAddr, c.AdvertisePeerAddr},
	} {
		if err := checkListen(a.flag, a.addr, a.advertised); err != nil {
			return err
		}
	}
	if c.MetricsAddr != "" {
		if _, err := checkAddr("metrics-addr", c.MetricsAddr); err != nil {
			return err
		}
	}
	if err := c.checkDistinct(); err != nil {
		return err
	}
	if err := c.checkJoin(); err != nil {
		return err
	}
	return c.checkFiles()
}

// checkDistinct refuses one address for two purposes.
func (c config) checkDistinct() error {
	listen := []struct{ flag, addr string }{{"client-addr", c.ClientAddr}, {"peer-addr", c.PeerAddr}, {"metrics-addr", c.MetricsAddr}}
	for i, a := range listen {
		for _, b := range listen[:i] {
			if _, port, _ := net.SplitHostPort(a.addr); a.addr != "" && !isZero(port) && sameAddr(a.addr, b.addr) {
				return fmt.Errorf("--%s and --%s are both %s; choose another port for one of them", b.flag, a.flag, a.addr)
			}
		}
	}
	return nil
}

// checkJoin checks the addresses of other members. What --expect waits for must be possible.
func (c config) checkJoin() error {
	for _, addr := range c.Join {
		if err := checkDialed("join", addr); err != nil {
			return err
		}
	}
	switch {
	case c.Expect == 0:
		return nil
	case c.Expect < 0 || c.Bootstrap || c.Wait || len(c.Join) == 0:
		return fmt.Errorf("--expect %d: give it with --join and the addresses of all expected members, the same on each, and without --bootstrap and --wait", c.Expect)
	}
	if _, port, _ := net.SplitHostPort(c.ownPeerAddr()); isZero(port) {
		return fmt.Errorf("--expect %d: the other members cannot know the port of %s, as the system chooses it; name a port", c.Expect, c.ownPeerAddr())
	}
	for i, addr := range c.Join {
		if first := slices.IndexFunc(c.Join, func(other string) bool { return sameAddr(other, addr) }); first < i {
			return fmt.Errorf("--join names one member twice, as %s and as %s; name each of the %d expected members once", c.Join[first], addr, c.Expect)
		}
	}
	return nil
}

// checkExpected refuses to wait for more members than --join names.
func (c config) checkExpected() error {
	known := len(c.Join)
	if !c.joinNamesSelf() {
		known++
	}
	if known < c.Expect {
		return fmt.Errorf("--expect %d: --join and this member's own address, %s, are %d members; add the addresses of the others to --join, or expect fewer", c.Expect, c.ownPeerAddr(), known)
	}
	return nil
}

// ownPeerAddr is where others dial this member.
func (c config) ownPeerAddr() string { return cmp.Or(c.AdvertisePeerAddr, c.PeerAddr) }

func (c config) joinNamesSelf() bool {
	return slices.ContainsFunc(c.Join, func(addr string) bool { return sameAddr(addr, c.ownPeerAddr()) })
}

// sameAddr says whether two addresses are spelled in two ways at most. It asks no name
// server: two names of one machine are two addresses.
func sameAddr(a, b string) bool { return spelling(a) == spelling(b) }

func spelling(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		port = strconv.FormatUint(n, 10)
	}
	return net.JoinHostPort(host, port)
}

func isZero(port string) bool { return strings.Trim(port, "0") == "" }

// checkDialed checks an address that this member, or another, is to dial.
func checkDialed(flag, addr string) error {
	host, err := checkAddr(flag, addr)
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(addr)
	switch {
	case anyHost(host):
		return fmt.Errorf("--%s %q: name a host or an IP address of one machine", flag, addr)
	case isZero(port):
		return fmt.Errorf("--%s %q: name the port that the member listens on", flag, addr)
	}
	return nil
}

// answerBytesLeast is less than what one large value needs.
const answerBytesLeast = 4 << 20

// incomingBytesLeast is what a few large requests, and some hundred small ones, need.
const incomingBytesLeast = 32 << 20

// checkLimits checks what clients may take.
func (c config) checkLimits() error {
	switch {
	case c.RequestTimeout < 100*time.Millisecond:
		return fmt.Errorf("--request-timeout %v: name a duration such as 7s, of 100ms at least", c.RequestTimeout)
	case c.AnswerStallTimeout < time.Second:
		return fmt.Errorf("--answer-stall-timeout %v: name a duration such as 30s, of 1s at least", c.AnswerStallTimeout)
	case c.MaxConcurrentStreams == 0:
		return errors.New("--max-concurrent-streams 0: no client could ask anything; name a number such as 1000")
	case c.AnswerBytesMax != 0 && c.AnswerBytesMax < answerBytesLeast:
		return fmt.Errorf("--answer-bytes-max %d: name %d bytes at least, or 0 for a quarter of the memory", c.AnswerBytesMax, answerBytesLeast)
	case c.IncomingBytesMax != 0 && c.IncomingBytesMax < incomingBytesLeast:
		return fmt.Errorf("--incoming-bytes-max %d: name %d bytes at least, or 0 for an eighth of the memory", c.IncomingBytesMax, incomingBytesLeast)
	case c.IncomingTimeout < time.Second:
		return fmt.Errorf("--incoming-timeout %v: name a duration such as 10s, of 1s at least", c.IncomingTimeout)
	}
	return nil
}

// checkListen checks an address to listen on. Others must be able to dial it,
// unless another one is advertised.
func checkListen(flag, addr, advertised string) error {
	host, err := checkAddr(flag, addr)
	if err != nil {
		return err
	}
	if advertised != "" {
		return checkDialed("advertise-"+flag, advertised)
	}
	if anyHost(host) {
		return fmt.Errorf("--%s %s is no address that others can dial; add --advertise-%s HOST:PORT", flag, addr, flag)
	}
	return nil
}

// anyHost: it stands for all addresses of a machine.
func anyHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

func checkAddr(flag, addr string) (host string, err error) {
	if strings.Contains(addr, "://") {
		return "", fmt.Errorf("--%s %q: it must be HOST:PORT without a scheme, such as 127.0.0.1:2379", flag, addr)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("--%s %q: it must be HOST:PORT, such as 127.0.0.1:2379 or [::1]:2379", flag, addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("--%s %q: %q is no port; name a number from 1 to 65535", flag, addr, port)
	}
	return host, nil
}

func (c config) checkFiles() error {
	peer := []string{c.PeerCertFile, c.PeerKeyFile, c.PeerCAFile}
	if slices.Contains(peer, "") && slices.ContainsFunc(peer, func(s string) bool { return s != "" }) {
		return errors.New("TLS between members is mutual; set --peer-cert-file, --peer-key-file and --peer-ca-file, or none of them")
	}
	if len(c.PeerAllowedSANs) > 0 && c.PeerCertFile == "" {
		return errors.New("--peer-allowed-san needs certificates between members; set --peer-cert-file, --peer-key-file and --peer-ca-file")
	}
	if (c.ClientCertFile == "") != (c.ClientKeyFile == "") || c.ClientCAFile != "" && c.ClientCertFile == "" {
		return errors.New("TLS for clients needs --client-cert-file and --client-key-file together, and both before --client-ca-file")
	}
	return nil
}

// stallLimit is what node.Config calls so, where 0 is another value.
func (c config) stallLimit() time.Duration {
	if c.DiskStallLimit == 0 {
		return -1
	}
	return c.DiskStallLimit
}

// tickInterval is node.Config.TickInterval.
const tickInterval = 100 * time.Millisecond

// foundAfterTicks is node.Config.FoundAfterTicks.
func (c config) foundAfterTicks() int { return int((c.FoundAfter + tickInterval - 1) / tickInterval) }

const nodeDirName, storeDirName = "node", "kv"

// Inside the data directory.
func (c config) nodeDir() string  { return filepath.Join(c.DataDir, nodeDirName) }
func (c config) storeDir() string { return filepath.Join(c.DataDir, storeDirName) }
func (c config) lockFile() string { return filepath.Join(c.DataDir, "LOCK") }

// parseID reads an ID in hexadecimal; 0: it is none.
func parseID(text string) uint64 {
	id, _ := strconv.ParseUint(text, 16, 64)
	return id
}

// checkFounding refuses an empty directory without a word on how to begin.
// Later starts ignore all of them.
func (c config) checkFounding() error {
	if err := checkDirectory(c.DataDir); err != nil {
		return err
	}
	fresh, err := isFresh(c.nodeDir())
	switch {
	case err != nil:
		return err
	case !fresh:
		return nil
	case comeback.New(comebackConfig(c, nil)).WasMember():
		return nil
	case !c.Bootstrap && len(c.Join) == 0 && !c.Wait:
		return fmt.Errorf("%s is empty; add --join PEER-ADDR,... --expect N to found a cluster of N together, --join PEER-ADDR to join one, --bootstrap to found one alone, or --wait to be added to one", c.DataDir)
	case c.Wait && (c.Bootstrap || len(c.Join) > 0):
		return fmt.Errorf("%s is empty; --wait is for a member that neither founds a cluster nor joins one by itself: leave --bootstrap and --join out", c.DataDir)
	case len(c.Join) > 0 && c.Expect != 1 && !slices.ContainsFunc(c.Join, func(a string) bool { return !sameAddr(a, c.ownPeerAddr()) }):
		return fmt.Errorf("--join names nobody but this member itself, %s; name a member of the cluster, add --expect N to found one together, or use --bootstrap to found one alone", c.ownPeerAddr())
	}
	return c.checkExpected()
}

// checkDirectory says what is in the way of a directory for data.
func checkDirectory(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("--data-dir %s: a part of this path is a file; name another directory", dir)
	case err == nil && !info.IsDir():
		return fmt.Errorf("--data-dir %s is a file; name a directory, or one that is to be made", dir)
	}
	return nil // whatever else is wrong with it ends the start later, with advice
}

// isFresh: nothing but a lock was ever put into dir.
func isFresh(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("--data-dir: %w", err)
	}
	return !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != "LOCK" }), nil
}
