package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// Cluster is what operators ask of the nodes that serve together, through any of
// them. Its errors are ErrNoCluster, ErrNoNode and ErrClusterRefused, or nobody's.
type Cluster interface {
	// Status asks every node how it is, and answers for those that do not.
	Status(ctx context.Context) (ClusterStatus, error)
	// Invite makes a token by which one node may join, as a member with a vote
	// (role member) or as a client of the members (role client), for that long.
	Invite(ctx context.Context, role string, ttl time.Duration) (Invitation, error)
	// Remove ends the membership of the node of that name for good.
	Remove(ctx context.Context, name string) error
}

// What can be wrong with a call about the cluster.
var (
	ErrNoCluster      = errors.New("this node is no member of a cluster that others can join")
	ErrNoNode         = errors.New("there is no such member")
	ErrClusterRefused = errors.New("the cluster does not take this change")
)

// ClusterStatus is the published state of the nodes.
type ClusterStatus struct {
	Node   string       `json:"node"`   // name of the one that was asked
	Leader string       `json:"leader"` // name of the member that leads; "" when nobody is known to
	Quorum bool         `json:"quorum"` // whether writes are possible, as this node finds
	Nodes  []NodeStatus `json:"nodes"`
}

// NodeStatus is one node's.
type NodeStatus struct {
	Name     string   `json:"name"`
	ID       string   `json:"id"`   // of the member, in hexadecimal; "" for a client
	Role     string   `json:"role"` // leader, follower, learner or client
	Version  string   `json:"version"`
	URL      string   `json:"url"`      // where other members reach it
	Answers  bool     `json:"answers"`  // to the node that was asked
	Term     uint64   `json:"term"`     // of Raft
	Index    uint64   `json:"index"`    // Raft's, that its database has come to
	Lag      uint64   `json:"lag"`      // how far that is behind the furthest
	DBBytes  int64    `json:"db_bytes"` // of its database
	Quota    int64    `json:"quota_bytes"`
	SyncMS   float64  `json:"sync_p99_ms"` // of its log, in the last minute
	LinkMS   float64  `json:"link_p99_ms"` // round trips to other members, likewise
	Alarms   []string `json:"alarms"`
	Problems []string `json:"problems"` // what is wrong with it, in words; none when it is well
}

// Invitation is a token to join.
type Invitation struct {
	Token     string    `json:"token"`
	Role      string    `json:"role"`
	URL       string    `json:"url"` // to join at
	ExpiresAt time.Time `json:"expires_at"`
}

// How long a token to join is good.
const (
	usualInvitation = time.Hour
	maxInvitation   = 24 * time.Hour
)

func (s *Server) cluster() (Cluster, error) {
	if s.cfg.Cluster == nil {
		return nil, ErrNoCluster
	}
	return s.cfg.Cluster, nil
}

func (s *Server) clusterStatus(c echo.Context) error {
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	status, err := cluster.Status(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, status)
}

// inviteMember gives a token out. It is a secret, shown here alone.
func (s *Server) inviteMember(c echo.Context) error {
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	body := struct {
		Role string `json:"role"`
		TTL  string `json:"ttl"`
	}{"member", usualInvitation.String()}
	if err := readJSONIfAny(c, maxJSON, &body); err != nil {
		return err
	}
	if body.Role != "member" && body.Role != "client" {
		return unacceptable("role", "may be member or client")
	}
	ttl, err := time.ParseDuration(body.TTL)
	if err != nil || ttl < time.Second || ttl > maxInvitation {
		return unacceptable("ttl", "takes 1s to 24h")
	}
	made, err := cluster.Invite(c.Request().Context(), body.Role, ttl)
	if err != nil {
		return err
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.JSON(http.StatusCreated, made)
}

func (s *Server) removeMember(c echo.Context) error {
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	if err := cluster.Remove(c.Request().Context(), c.Param("member")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
