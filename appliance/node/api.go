package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"tandem/appliance/status"
	"tandem/vrrp"
)

// apiTimeout bounds a request to the API.
const apiTimeout = 15 * time.Second

// serveAPI answers on a Unix socket that only the owner may open.
func (n *node) serveAPI(ctx context.Context) error {
	path := n.path(status.SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale API socket: %w", err)
	}
	// The state directory is 0700, so nobody else gets at the socket before chmod.
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("open the API: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("protect the API socket: %w", err)
	}
	server := n.server()
	context.AfterFunc(ctx, func() { _ = server.Close() }) // the process is ending
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// server bounds every request but for the events, which set limits of their own.
func (n *node) server() *http.Server {
	return &http.Server{
		Handler: n.routes(), ReadHeaderTimeout: 2 * time.Second, ReadTimeout: apiTimeout, WriteTimeout: apiTimeout,
		MaxHeaderBytes: 16 << 10,
	}
}

func (n *node) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		n.answer(w, http.StatusOK, n.status(time.Now()))
	})
	mux.HandleFunc("GET /v1/operations/{name}/uplinks", func(w http.ResponseWriter, r *http.Request) {
		uses, err := n.uplinks.usable(r.PathValue("name"))
		if err != nil {
			n.answer(w, http.StatusNotFound, status.Failure{Error: err.Error()})
			return
		}
		n.answer(w, http.StatusOK, status.OperationUplinks{Operation: r.PathValue("name"), Uplinks: uses})
	})
	mux.HandleFunc("GET /v1/events", n.serveEvents)
	mux.HandleFunc("GET /metrics", n.serveMetrics)
	mux.HandleFunc("POST /v1/failover", func(w http.ResponseWriter, r *http.Request) {
		result, err := n.failover(r.Context())
		if err != nil {
			n.answer(w, http.StatusConflict, status.Failure{Error: err.Error()})
			return
		}
		n.answer(w, http.StatusOK, result)
	})
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		result, err := n.reload(r.Context())
		if err != nil {
			n.answer(w, http.StatusConflict, status.Failure{Error: err.Error()})
			return
		}
		n.answer(w, http.StatusOK, result)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n.answer(w, http.StatusNotFound, status.Failure{Error: fmt.Sprintf(
			"there is no %s %s: this node answers GET /v1/status, GET /v1/events, GET /metrics, POST /v1/failover and POST /v1/reload", shortened(r.Method), shortened(r.URL.Path))})
	})
	return http.MaxBytesHandler(mux, 1<<20)
}

// shortened bounds what an answer repeats of a request.
func shortened(s string) string {
	const limit = 100
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

func (n *node) answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		n.log.Debug("an API client went away", "error", err)
	}
}

// failover hands the role to the peer without a break: first everything that the
// kernel has reported is acknowledged by the peer, then the role moves.
func (n *node) failover(ctx context.Context) (status.Failover, error) {
	start := time.Now()
	r, _, _ := n.elector.latest()
	if r.State != vrrp.Master {
		return status.Failover{}, errNotMaster
	}
	other, ok := n.doc().Peer(n.opts.Name)
	if !ok {
		return status.Failover{}, errors.New("a single router has nobody to hand over to")
	}
	if err := n.sync.barrier(ctx); err != nil {
		return status.Failover{}, fmt.Errorf("the sessions could not be brought up to date on %s: %w", other.Name, err)
	}
	if err := n.elector.handover(ctx); err != nil {
		return status.Failover{}, err
	}
	return status.Failover{From: n.opts.Name, To: other.Name, Took: time.Since(start)}, nil
}
