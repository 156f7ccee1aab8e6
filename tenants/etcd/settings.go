package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/tenants"
)

// Config implements tenants.Source.
func (s *Source) Config(ctx context.Context, uuid string) (json.RawMessage, error) {
	object, found, err := s.open(ctx, uuid, configPrefix+uuid)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	if !found {
		return json.RawMessage("{}"), nil
	}
	return object, nil
}

// PutConfig implements tenants.Source.
func (s *Source) PutConfig(ctx context.Context, uuid string, object json.RawMessage) error {
	if err := s.seal(ctx, uuid, configPrefix+uuid, object); err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	return nil
}

// SecretNames implements tenants.Source.
func (s *Source) SecretNames(ctx context.Context, uuid string) ([]string, error) {
	prefix := secretPrefix + uuid + "/"
	got, err := s.get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	var names []string
	for _, kv := range got.Kvs {
		names = append(names, strings.TrimPrefix(string(kv.Key), prefix))
	}
	return names, nil
}

// Secret implements tenants.Source.
func (s *Source) Secret(ctx context.Context, uuid, name string) (tenants.Secret, error) {
	value, found, err := s.open(ctx, uuid, secretPrefix+uuid+"/"+name)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	if !found {
		return nil, tenants.ErrNotFound
	}
	return value, nil
}

// PutSecret implements tenants.Source. *tenants.Invalid when the tenant has as
// many secrets as it may.
func (s *Source) PutSecret(ctx context.Context, uuid, name string, value tenants.Secret) error {
	names, err := s.SecretNames(ctx, uuid)
	if err != nil {
		return err
	}
	if err := tenants.CheckSecretCount(names, name); err != nil {
		return err
	}
	if err := s.seal(ctx, uuid, secretPrefix+uuid+"/"+name, value); err != nil {
		return fmt.Errorf("write secret: %w", err)
	}
	return nil
}

// DeleteSecret implements tenants.Source.
func (s *Source) DeleteSecret(ctx context.Context, uuid, name string) error {
	if _, err := s.commit(ctx, nil, []clientv3.Op{clientv3.OpDelete(secretPrefix + uuid + "/" + name)}); err != nil {
		return fmt.Errorf("delete secret: %w", err)
	}
	return nil
}

// seal writes a value of a tenant that is there, sealed under its newest key: the
// condition is that its keys, which come and go with it, are those known here.
func (s *Source) seal(ctx context.Context, uuid, path string, value []byte) error {
	for {
		k, err := s.known(ctx, uuid, 0)
		if err != nil {
			return err
		}
		same := clientv3.Compare(clientv3.ModRevision(keysPrefix+uuid), "=", k.written)
		put := clientv3.OpPut(path, string(k.keys.Seal([]byte(path), value)))
		done, err := s.commit(ctx, []clientv3.Cmp{same}, []clientv3.Op{put})
		if err != nil {
			return err
		}
		if done.Succeeded {
			return nil
		}
		s.forget(uuid, done.Header.Revision)
	}
}

// open reads what seal wrote.
func (s *Source) open(ctx context.Context, uuid, path string) (value []byte, found bool, err error) {
	got, err := s.get(ctx, path)
	if err != nil || len(got.Kvs) == 0 {
		return nil, false, err
	}
	value, err = s.unseal(ctx, uuid, got.Kvs[0])
	return value, err == nil, err
}
