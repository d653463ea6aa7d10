package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/appliance/status"
)

// stub plays the tandem program: alpha is MASTER and bravo BACKUP, and the
// MASTER sends a frame with the virtual MAC address every few milliseconds from
// a second process, as the elector would.
func stub(args []string) int {
	err := errors.New("unknown command " + args[0])
	switch args[0] {
	case "keygen":
		err = stubKeygen(args[1:])
	case "run":
		err = stubRun(args[1:])
	case "elect":
		err = stubElect()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stub:", err)
		return 1
	}
	return 0
}

func stubKeygen(args []string) error {
	flags := flag.NewFlagSet("keygen", flag.ContinueOnError)
	out := flags.String("out", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	line := "tandem-p256:" + base64.StdEncoding.EncodeToString(public) + "\n"
	_, _ = fmt.Fprint(os.Stdout, line)
	return os.WriteFile(*out, []byte(line), 0o600) // what the test compares
}

func stubRun(args []string) error {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	document := flags.String("config", "", "")
	key := flags.String("key", "", "")
	node := flags.String("node", "", "")
	state := flags.String("state-dir", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, path := range []string{*document, *key} {
		if _, err := os.Stat(path); err != nil {
			return err
		}
	}
	var master atomic.Bool
	master.Store(*node == Alpha)
	if master.Load() {
		elector := exec.Command("/proc/self/exe", "elect")
		elector.Stderr = os.Stderr
		if err := elector.Start(); err != nil {
			return err
		}
	}
	return serveStub(filepath.Join(*state, "api.sock"), *node, &master)
}

func serveStub(socket, node string, master *atomic.Bool) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		answer := status.Status{Node: node, Role: "BACKUP", Sync: status.Sync{Connected: true, Complete: true}}
		if master.Load() {
			answer.Role = "MASTER"
		}
		_ = json.NewEncoder(w).Encode(answer) // the asker sees a broken answer
	})
	mux.HandleFunc("POST /v1/failover", func(w http.ResponseWriter, _ *http.Request) {
		if !master.Swap(false) {
			http.Error(w, "this node is not MASTER", http.StatusConflict)
		}
	})
	failed := make(chan error, 1)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { failed <- server.Serve(listener) }()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	select {
	case err := <-failed:
		return err
	case <-signals:
		return server.Close()
	}
}

// stubElect sends frames from VRID 10's address until it is killed. It outlives
// its parent, as an orphan.
func stubElect() error {
	lan, err := net.InterfaceByName("lan0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	frame := make([]byte, 60)
	copy(frame, []byte{1, 0, 0x5e, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, 10, 8, 0})
	for range time.Tick(2 * time.Millisecond) {
		err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: lan.Index})
		if err != nil && !errors.Is(err, unix.ENETDOWN) {
			return err
		}
	}
	return nil
}
