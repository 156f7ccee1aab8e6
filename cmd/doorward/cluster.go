package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/service/web"
	"github.com/doorward/doorward/sessions/cluster"
)

func clusterCommand() *cobra.Command {
	cmd := group("cluster", "Add and remove nodes, and see how they are")
	cmd.Long = "Nodes that serve together. Three or five of them are members: each has a copy of\n" +
		"everything and a vote, and any minority of them may be lost. Any number of others are\n" +
		"clients of the members.\n\n" +
		"To add a node: on one that serves, cluster token; on the new one, cluster join and\n" +
		"then serve. Nobody becomes or ceases to be a member by itself."
	output := outputFlag(cmd)
	cmd.AddCommand(clusterStatus(output), clusterToken(output), clusterJoin(), clusterReplace(), clusterLeave(), clusterAuthority())
	return cmd
}

func clusterStatus(output *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show every node, who leads, and what is wrong with whom", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := newAdmin()
			if err != nil {
				return err
			}
			var status map[string]any
			if err := a.do(cmd.Context(), http.MethodGet, "/cluster", nil, &status); err != nil {
				return err
			}
			if *output != "table" {
				return show(cmd, *output, status)
			}
			var rows []map[string]any
			var problems []string
			nodes, _ := status["nodes"].([]any)
			for _, one := range nodes {
				row, ok := one.(map[string]any)
				if !ok {
					continue
				}
				list, _ := row["problems"].([]any)
				row["health"] = "ok"
				if len(list) > 0 {
					row["health"] = "sick"
				}
				for _, p := range list {
					problems = append(problems, cell(row["name"])+": "+cell(p))
				}
				rows = append(rows, row)
			}
			if err := show(cmd, *output, rows, "name", "role", "health", "version", "lag", "db_bytes", "quota_bytes", "sync_p99_ms", "link_p99_ms", "url"); err != nil {
				return err
			}
			for _, p := range problems {
				fmt.Fprintln(cmd.OutOrStdout(), p)
			}
			if status["quorum"] != true {
				fmt.Fprintln(cmd.OutOrStdout(), "There is no majority: nobody can sign in or out until more members are back.")
			}
			return nil
		},
	}
}

func clusterToken(output *string) *cobra.Command {
	var role string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "token", Short: "Make a token by which one node may join", Args: noArgs,
		Long: "Make a token by which one node may join, once. It is a secret: whoever has it gets the\n" +
			"key ring. It carries the fingerprint of the cluster's certificate, so that the new node\n" +
			"knows whom it speaks to.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := newAdmin()
			if err != nil {
				return err
			}
			var made web.Invitation
			if err := a.do(cmd.Context(), http.MethodPost, "/cluster/members", map[string]string{"role": role, "ttl": ttl.String()}, &made); err != nil {
				return err
			}
			if *output == "json" {
				return show(cmd, *output, made)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s\n\nOn the new node, before %s:\n  doorward cluster join %s --config FILE --token %s\n",
				made.Token, made.ExpiresAt.Local().Format(time.DateTime), made.URL, made.Token)
			return nil
		},
	}
	cmd.Flags().StringVar(&role, "role", roleMember, "member, with a copy and a vote, or client of the members")
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is good, at most 24h")
	return cmd
}

func clusterJoin() *cobra.Command {
	return joinCommand("join URL --token TOKEN --config FILE", "Make this machine a node of the cluster at URL", false,
		"Make this machine a node of a cluster: it gets a certificate, the key ring and the list\n"+
			"of members. Start it afterwards with serve; a member votes as soon as it is in step.")
}

func clusterReplace() *cobra.Command {
	return joinCommand("replace URL --token TOKEN --config FILE", "Take the place of a dead member of the same name", true,
		"Take the place of a member whose disk or data is gone: the member named cluster.name is\n"+
			"removed, if it does not answer, and this machine joins in its place. What is left in\n"+
			"its data directory is given up.")
}

func joinCommand(use, short string, replace bool, long string) *cobra.Command {
	var flags config
	var file, token string
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long + "\n\nThe token may be in DOORWARD_JOIN_TOKEN instead, where other users do not see it.", Args: exactly("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := load(file, flags)
			if err != nil {
				return err
			}
			if c.DataDir == "" || c.Keyring.File == "" {
				return usage(errors.New("data_dir and keyring.file are not set; give the configuration that this node will serve with: --config FILE"))
			}
			if err := c.checkCluster(); err != nil {
				return usage(err)
			}
			setDefault(&token, os.Getenv("DOORWARD_JOIN_TOKEN"))
			t, err := parseJoinToken(token)
			if err != nil {
				return usage(fmt.Errorf("--token: %w", err))
			}
			return c.join(cmd.Context(), args[0], t, replace, cmd.OutOrStdout())
		},
	}
	serverFlags(cmd, &flags)
	cmd.Flags().StringVar(&file, "config", "", "YAML configuration file of this node")
	cmd.Flags().StringVar(&token, "token", "", "what cluster token has printed")
	return cmd
}

// join asks a node of the cluster to let this one in, and writes what it needs.
func (c *config) join(ctx context.Context, at string, t joinToken, replace bool, out io.Writer) error {
	lock, err := cluster.Lock(c.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if !replace {
		for _, path := range []string{filepath.Join(c.DataDir, "etcd"), c.joinedFile()} {
			if _, err := os.Stat(path); err == nil {
				return fmt.Errorf("%s is there: this node has data or has joined already; a new node begins with an empty data_dir, and one that takes a dead member's place with cluster replace", path)
			}
		}
	}
	public, err := cluster.NewKey(c.clusterDir())
	if err != nil {
		return err
	}
	answer, err := askToJoin(ctx, at, t, joinRequest{Name: c.Cluster.Name, Peer: c.Cluster.Advertise, Key: public, Replace: replace})
	if err != nil {
		return err
	}
	authority, err := cluster.ParseAuthority(answer.Authority)
	if err != nil {
		return err
	}
	if replace {
		if err := cluster.Forget(c.DataDir); err != nil {
			return err
		}
	}
	if answer.Role == roleMember {
		if err := c.keep(c.authorityFile(), answer.Authority); err != nil {
			return err
		}
	}
	if err := c.keep(c.Keyring.File, answer.Keyring); err != nil {
		return err
	}
	if _, err := cluster.SaveIdentity(c.clusterDir(), authority, answer.Certificate); err != nil {
		return err
	}
	// Last: it is by this that serve knows that all is there.
	if err := (&joined{Role: answer.Role, Peers: answer.Peers, Clients: answer.Clients}).save(*c); err != nil {
		return err
	}
	if answer.Role == roleMember {
		fmt.Fprintf(out, "joined as a learner, with %d others; start this node with serve, and it has its vote when it is in step\n", len(answer.Peers)-1)
	} else {
		fmt.Fprintln(out, "joined as a client of the members; start this node with serve")
	}
	return nil
}

// keep writes a secret file, unless it is there with the same content. Another
// one is not written over: it may be the only copy of something.
func (c *config) keep(path string, text []byte) error {
	there, err := sameFile(path, text)
	if there && err == nil {
		return nil
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("keep what the cluster gave: %w", err)
	}
	return nil
}

// askToJoin sends the request to a node that shows a certificate of the cluster
// that made the token.
func askToJoin(ctx context.Context, at string, t joinToken, ask joinRequest) (*joinAnswer, error) {
	if u, err := url.Parse(at); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, usage(fmt.Errorf("%q is no URL to join at; cluster token prints it: https://host:port", at))
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, fmt.Errorf("ask to join: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTime+10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(at, "/")+"/v1/join", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask to join: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+t.reveal())
	r.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{TLSClientConfig: cluster.Pinned(t.fingerprint)}
	defer transport.CloseIdleConnections()
	got, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w; is it the URL that cluster token printed, and that node running?", errReach, at, err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(io.LimitReader(got.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("ask to join: %w", err)
	}
	if got.StatusCode != http.StatusOK {
		problem := &answerError{Status: got.StatusCode, Title: got.Status}
		if json.Unmarshal(text, problem) != nil {
			problem.Detail = "the answer is not doorward's"
		}
		return nil, problem
	}
	var answer joinAnswer
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("read the cluster's answer: %w", err)
	}
	return &answer, nil
}

func clusterLeave() *cobra.Command {
	var member string
	cmd := &cobra.Command{
		Use: "leave [--member NAME]", Short: "End a membership for good: this node's, or a dead one's", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := newAdmin()
			if err != nil {
				return err
			}
			if member == "" {
				var status web.ClusterStatus
				if err := a.do(cmd.Context(), http.MethodGet, "/cluster", nil, &status); err != nil {
					return err
				}
				member = status.Node
			}
			return a.do(cmd.Context(), http.MethodDelete, "/cluster/members/"+url.PathEscape(member), nil, nil)
		},
	}
	cmd.Flags().StringVar(&member, "member", "", "name or id of another member, as status shows it")
	return cmd
}

func clusterAuthority() *cobra.Command {
	return &cobra.Command{
		Use: "authority FILE", Short: "Make a cluster's certificate and key, for nodes that start together", Args: exactly("FILE"),
		Long: "Make the file that cluster.authority names, for members that are in each other's\n" +
			"cluster.initial. Whoever has it can be a member: copy it as you copy the key ring.",
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := cluster.NewAuthority()
			if err != nil {
				return err
			}
			return a.Create(args[0])
		},
	}
}
