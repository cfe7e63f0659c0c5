package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
)

// What controllers and scheduler may ask in a second. Upstream's own limits (20 and 50) would be what is measured.
var unlimited = []string{"--kube-api-qps=5000", "--kube-api-burst=10000"}

// serve runs etcd and the API server on loopback, and where the control plane is wanted whole the scheduler and the
// controllers, until its standard input ends (so also with whoever started it), it is told to end, or one of them ends. FOLDER gets everything: data, keys, logs, and the
// administrator's kubeconfig. Flags are those that kubeadm gives, all else is upstream's default.
func serve(folder, port string, isWhole bool) error {
	// The kernel ends the parts when the thread that started them ends.
	runtime.LockOSThread()
	server := "https://127.0.0.1:" + port
	if err := writeKeys(folder, server); err != nil {
		return err
	}
	clients, err := freeURL()
	if err != nil {
		return err
	}
	peers, err := freeURL()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	in := func(name string) string { return filepath.Join(folder, name) }
	commands := []*exec.Cmd{
		exec.Command(filepath.Join(filepath.Dir(self), "etcd"),
			"--data-dir="+in("etcd"), "--listen-client-urls="+clients, "--advertise-client-urls="+clients,
			"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers,
			"--watch-progress-notify-interval=5s"),
		exec.Command(self, "kube-apiserver",
			"--etcd-servers="+clients, "--bind-address=127.0.0.1", "--secure-port="+port,
			// Endpoints must not be on loopback; nobody goes there.
			"--advertise-address=192.0.2.1", "--service-cluster-ip-range=10.96.0.0/16",
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
			"--client-ca-file="+in("ca.crt"), "--tls-cert-file="+in("serving.crt"), "--tls-private-key-file="+in("serving.key"),
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file="+in("accounts.key"), "--service-account-signing-key-file="+in("accounts.key")),
	}
	if isWhole {
		commands = append(commands,
			exec.Command(self, append([]string{"kube-scheduler", "--kubeconfig=" + in("scheduler.kubeconfig"),
				"--bind-address=127.0.0.1", "--secure-port=0"}, unlimited...)...),
			exec.Command(self, append([]string{"kube-controller-manager", "--kubeconfig=" + in("controllers.kubeconfig"),
				"--bind-address=127.0.0.1", "--secure-port=0", "--use-service-account-credentials=true",
				"--service-account-private-key-file=" + in("accounts.key"), "--root-ca-file=" + in("ca.crt")}, unlimited...)...))
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGINT, syscall.SIGTERM)
	ended := make(chan error, len(commands))
	defer func() {
		for _, command := range commands {
			if command.Process != nil {
				_ = command.Process.Kill()
			}
		}
		for _, command := range commands {
			if command.Process != nil {
				<-ended
			}
		}
	}()
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	for number, command := range commands {
		log, err := os.Create(in(fmt.Sprintf("%d.log", number)))
		if err != nil {
			return err
		}
		command.Stdout, command.Stderr = log, log
		command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := command.Start(); err != nil {
			return err
		}
		go func() { ended <- fmt.Errorf("%s: %w", filepath.Base(command.Path), command.Wait()) }()
	}
	select {
	case <-told:
		return nil
	case <-over:
		return nil
	case err := <-ended:
		ended <- err
		return err
	}
}

// freeURL tells an address of loopback that nobody has.
func freeURL() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return "http://" + listener.Addr().String(), nil
}
