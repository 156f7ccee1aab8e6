package cluster

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logCore hands etcd's warnings and errors to slog. etcd says much else, which
// is its own business.
type logCore struct {
	log    *slog.Logger
	silent *atomic.Bool
	ended  *atomic.Pointer[string] // why the server ended, which it says here alone
}

func newLogCore(log *slog.Logger) *logCore {
	return &logCore{log: log.With("part", "etcd"), silent: &atomic.Bool{}, ended: &atomic.Pointer[string]{}}
}

func (c *logCore) logger() *zap.Logger { return zap.New(c) }

// quiet stops everything but what is fatal.
func (c *logCore) quiet() { c.silent.Store(true) }

// Enabled implements zapcore.Core.
func (c *logCore) Enabled(level zapcore.Level) bool {
	return level >= zapcore.WarnLevel && (!c.silent.Load() || level > zapcore.ErrorLevel)
}

// With implements zapcore.Core.
func (c *logCore) With(fields []zapcore.Field) zapcore.Core {
	return &logCore{log: c.log.With(attrs(fields)...), silent: c.silent, ended: c.ended}
}

// beside are warnings about what is so on purpose: nobody reaches the sockets
// but this process.
var beside = []string{
	"Running http and grpc server on single port. This is not recommended for production.",
	"simple token is not cryptographically signed",
	"scheme is http or unix while key and cert files are present; ignoring key and cert files",
	"scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL",
}

// Check implements zapcore.Core.
func (c *logCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !slices.Contains(beside, e.Message) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Message == "server error" {
		for _, f := range fields {
			if err, ok := f.Interface.(error); ok {
				text := err.Error()
				c.ended.Store(&text)
			}
		}
	}
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, e.Message, attrs(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (c *logCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	flat := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(flat)
	}
	var list []any
	for name, value := range flat.Fields {
		list = append(list, name, value)
	}
	return list
}
