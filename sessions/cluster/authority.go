package cluster

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// What a certificate of the authority says its holder is. The names are nobody's
// in the network: hosts and addresses change, and whose machine it is the
// authority's signature says alone.
const (
	memberName = "member.doorward.internal" // may speak Raft
	nodeName   = "node.doorward.internal"   // may be a member's client
)

// validity is how long certificates are good: longer than machines live. What
// ends a node is its removal, and the next authority.
const validity = 20 * 365 * 24 * time.Hour

// Authority says who belongs to a cluster: it signs the certificates by which
// its nodes know each other. Only its own certificate counts, none that a
// system trusts besides. One without a key, as nodes have that are no members,
// checks and does not sign.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer // nil: not here
}

// NewAuthority makes one.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Doorward cluster"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	return &Authority{cert: cert, key: key}, nil
}

// ParseAuthority reads what Encode has written.
func ParseAuthority(text []byte) (*Authority, error) {
	a := &Authority{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var err error
		switch block.Type {
		case "CERTIFICATE":
			a.cert, err = x509.ParseCertificate(block.Bytes)
		case "PRIVATE KEY":
			a.key, err = parseKey(block.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("read the cluster's authority: %w", err)
		}
	}
	if a.cert == nil || !a.cert.IsCA {
		return nil, errors.New("read the cluster's authority: there is no certificate of one in it")
	}
	if a.key != nil && !a.cert.PublicKey.(*ecdsa.PublicKey).Equal(a.key.Public()) {
		return nil, errors.New("read the cluster's authority: its key is another one's")
	}
	return a, nil
}

func parseKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("a key that is not ECDSA")
	}
	return signer, nil
}

// LoadAuthority reads the file at path. It refuses one with a key that others
// may read: whoever has it is a member when he likes.
func LoadAuthority(path string) (*Authority, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w", err)
	}
	a, err := ParseAuthority(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if a.key != nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o and may be read by others; run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return a, nil
}

// LoadOrCreateAuthority is LoadAuthority, or makes one at path where there is none.
func LoadOrCreateAuthority(path string) (*Authority, error) {
	a, err := LoadAuthority(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if a, err = NewAuthority(); err != nil {
		return nil, err
	}
	return a, a.Create(path)
}

// Create writes it, with its key, to a new file, mode 0600, in a directory that
// is made if it is not there. An error when the file is there already.
func (a *Authority) Create(path string) error {
	text, err := a.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write the cluster's authority: %w", err)
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("write the cluster's authority: %s is there already", path)
	}
	if err := writeWhole(path, text); err != nil {
		return fmt.Errorf("write the cluster's authority: %w", err)
	}
	return nil
}

// Encode gives its certificate and key, as PEM. It is a secret.
func (a *Authority) Encode() ([]byte, error) {
	text := a.Certificate()
	if a.key == nil {
		return text, nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("write the cluster's authority: %w", err)
	}
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...), nil
}

// Certificate gives its certificate alone, as PEM. It is no secret.
func (a *Authority) Certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// Fingerprint is the SHA-256 of its certificate. Who knows it beforehand knows
// whom he speaks to.
func (a *Authority) Fingerprint() [sha256.Size]byte { return sha256.Sum256(a.cert.Raw) }

// String shows nothing of the key.
func (a *Authority) String() string {
	sum := a.Fingerprint()
	return "authority " + hex.EncodeToString(sum[:8])
}

// GoString shows nothing of the key.
func (a *Authority) GoString() string { return a.String() }

// Signs reports whether its key is here.
func (a *Authority) Signs() bool { return a.key != nil }

// Issue signs a certificate for the holder of that public key (PKIX, DER): for a
// member or else a node that is only a client. The name is for people.
func (a *Authority) Issue(name string, member bool, public []byte) ([]byte, error) {
	if a.key == nil {
		return nil, errors.New("sign a certificate: only members have the authority's key")
	}
	key, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	names := []string{nodeName}
	if member {
		names = append(names, memberName)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: a.cert.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

// Identity is a node's place among the files of its cluster: what it shows to
// the others, and by what it knows them.
type Identity struct {
	dir string
}

// The files of an Identity.
const (
	caFile   = "ca.pem"
	certFile = "node.pem"
	keyFile  = "node.key"
)

// NewKey makes the node's key in dir, or finds it there, and returns its public
// half (PKIX, DER). The key never leaves dir.
func NewKey(dir string) ([]byte, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make this node's key: %w", err)
	}
	path := filepath.Join(dir, keyFile)
	text, err := os.ReadFile(path)
	var key crypto.Signer
	switch {
	case errors.Is(err, fs.ErrNotExist):
		made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make this node's key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(made)
		if err != nil {
			return nil, fmt.Errorf("make this node's key: %w", err)
		}
		if err := writeWhole(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
			return nil, fmt.Errorf("make this node's key: %w", err)
		}
		key = made
	case err != nil:
		return nil, fmt.Errorf("read this node's key: %w", err)
	default:
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("read this node's key: %s holds none", path)
		}
		if key, err = parseKey(block.Bytes); err != nil {
			return nil, fmt.Errorf("read this node's key: %s: %w", path, err)
		}
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("make this node's key: %w", err)
	}
	return public, nil
}

// SaveIdentity puts a certificate that the authority signed for the key in dir
// beside it.
func SaveIdentity(dir string, a *Authority, certificate []byte) (*Identity, error) {
	for name, text := range map[string][]byte{caFile: a.Certificate(), certFile: certificate} {
		if err := writeWhole(filepath.Join(dir, name), text); err != nil {
			return nil, fmt.Errorf("write this node's certificate: %w", err)
		}
	}
	return LoadIdentity(dir)
}

// LoadIdentity finds what SaveIdentity has written. An error when it does not
// fit together.
func LoadIdentity(dir string) (*Identity, error) {
	i := &Identity{dir: dir}
	if _, err := i.pool(); err != nil {
		return nil, err
	}
	if _, err := i.pair(); err != nil {
		return nil, err
	}
	return i, nil
}

// OwnIdentity makes, in dir, the identity of a member that has the authority's
// key: it signs for itself, at each start, so that nothing expires.
func OwnIdentity(dir, name string, a *Authority) (*Identity, error) {
	public, err := NewKey(dir)
	if err != nil {
		return nil, err
	}
	certificate, err := a.Issue(name, true, public)
	if err != nil {
		return nil, err
	}
	return SaveIdentity(dir, a, certificate)
}

func (i *Identity) file(name string) string { return filepath.Join(i.dir, name) }

func (i *Identity) pool() (*x509.CertPool, error) {
	text, err := os.ReadFile(i.file(caFile))
	if err != nil {
		return nil, fmt.Errorf("read the cluster's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read the cluster's certificate: %s holds none", i.file(caFile))
	}
	return pool, nil
}

func (i *Identity) pair() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(i.file(certFile), i.file(keyFile))
	if err != nil {
		return nil, fmt.Errorf("read this node's certificate: %w", err)
	}
	return &pair, nil
}

// tls is what etcd takes: it shows this node's certificate both ways, and wants
// the other end's to be the authority's and to say that it is a member, or a node.
func (i *Identity) tls(name string) transport.TLSInfo {
	return transport.TLSInfo{
		CertFile: i.file(certFile), KeyFile: i.file(keyFile), TrustedCAFile: i.file(caFile), ClientCertAuth: true,
		ServerName: memberName, AllowedHostnames: []string{name},
		SkipClientSANVerify: true, // which would look names up and compare addresses
		MinVersion:          tls.VersionTLS13,
	}
}

// Server is a listener's side of TLS for those who join and for other nodes: a
// certificate may be shown, and then it is the authority's. The certificate of
// the authority goes along, so that who knows its fingerprint can tell.
func (i *Identity) Server() (*tls.Config, error) {
	pool, err := i.pool()
	if err != nil {
		return nil, err
	}
	pair, err := i.pair()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(i.file(caFile))
	if err != nil {
		return nil, fmt.Errorf("read the cluster's certificate: %w", err)
	}
	if block, _ := pem.Decode(text); block != nil {
		pair.Certificate = append(pair.Certificate, block.Bytes)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{*pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool,
		MinVersion: tls.VersionTLS13,
	}, nil
}

// Client is a caller's side of TLS to another node.
func (i *Identity) Client() (*tls.Config, error) { return i.client(nodeName) }

func (i *Identity) client(name string) (*tls.Config, error) {
	pool, err := i.pool()
	if err != nil {
		return nil, err
	}
	pair, err := i.pair()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS13,
		// gRPC would put the host in ServerName's place, which is in no certificate.
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("it shows no certificate")
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: name})
			return err
		},
	}, nil
}

// Pinned is the side of TLS of one who is not yet of the cluster and knows its
// authority's fingerprint alone: the other end is a member of it, or nobody.
func Pinned(fingerprint [sha256.Size]byte) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it, by the fingerprint
		VerifyConnection: func(s tls.ConnectionState) error {
			chain := s.PeerCertificates
			if len(chain) == 0 {
				return errors.New("it shows no certificate")
			}
			last := chain[len(chain)-1]
			if sum := sha256.Sum256(last.Raw); !bytes.Equal(sum[:], fingerprint[:]) {
				return errors.New("its certificate is not of the cluster that made the token")
			}
			roots := x509.NewCertPool()
			roots.AddCert(last)
			_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: memberName})
			return err
		},
	}
}

// writeWhole writes a file of mode 0600, whole or not at all.
func writeWhole(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// peerURL reads the URL at which other members reach this one.
func peerURL(text string) (url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return url.URL{}, fmt.Errorf("%q is no https://host:port", text)
	}
	return *u, nil
}
