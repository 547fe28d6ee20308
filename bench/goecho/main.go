// Command goecho is what a Go backend costs at the very least: grpc-go, and replies that it was given beforehand.
//
//	goecho -listen unix:/path|HOST:PORT -replies FILE
//
// FILE holds whole DNS replies, each after its length in two bytes (as DNS over
// TCP has them). A query is answered with the reply to its question, the id
// replaced; one whose question is not in FILE fails with INTERNAL, so that it
// cannot pass for an answer. The packet of one `bytes` field is read and written
// by hand: generated code would add to the cost, not take from it.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// The tag of DnsPacket.msg: field 1, length-delimited.
const msgTag = 1<<3 | 2

const dnsHeaderLen = 12

var errUnknown = status.Error(codes.Internal, "no reply to this question was given")

// raw hands packets through as bytes. It goes by protobuf's name: that is what they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(packet any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(packet.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, packet any) error {
	*packet.(*[]byte) = data.Materialize()
	return nil
}

// question is the first question of a message, name and type and class; nil when there is none.
func question(msg []byte) []byte {
	at := dnsHeaderLen
	for at < len(msg) && msg[at] != 0 {
		at += 1 + int(msg[at])
	}
	if at += 1 + 4; at > len(msg) {
		return nil
	}
	return msg[dnsHeaderLen:at]
}

// message is the content of a packet, nil when it is not one field 1.
func message(packet []byte) []byte {
	if len(packet) < 2 || packet[0] != msgTag {
		return nil
	}
	length, size := binary.Uvarint(packet[1:])
	if size <= 0 || uint64(len(packet)-1-size) != length {
		return nil
	}
	return packet[1+size:]
}

// replies has the packet of each question, and where in it the id stands.
type replies map[string]reply

type reply struct {
	packet []byte
	id     int
}

func load(file string) (replies, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	found := replies{}
	for len(data) > 0 {
		if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
			return nil, errors.New(file + ": ends within a reply")
		}
		length := int(binary.BigEndian.Uint16(data))
		msg := data[2 : 2+length]
		data = data[2+length:]
		asked := question(msg)
		if asked == nil {
			return nil, errors.New(file + ": a reply without a question")
		}
		packet := binary.AppendUvarint([]byte{msgTag}, uint64(length))
		found[string(asked)] = reply{append(packet, msg...), len(packet)}
	}
	return found, nil
}

func (known replies) answer(packet []byte) ([]byte, error) {
	msg := message(packet)
	if msg == nil {
		return nil, errUnknown
	}
	found, ok := known[string(question(msg))]
	if !ok {
		return nil, errUnknown
	}
	made := make([]byte, len(found.packet))
	copy(made, found.packet)
	copy(made[found.id:found.id+2], msg)
	return made, nil
}

func query(server any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var packet []byte
	if err := decode(&packet); err != nil {
		return nil, err
	}
	return server.(replies).answer(packet)
}

func listen(address string) (net.Listener, error) {
	if path, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		return net.Listen("unix", path)
	}
	return net.Listen("tcp", address)
}

func main() {
	address := flag.String("listen", "127.0.0.1:5300", "unix:/path or HOST:PORT")
	file := flag.String("replies", "", "the file with the replies")
	flag.Parse()
	known, err := load(*file)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := listen(*address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "coredns.dns.DnsService",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Query", Handler: query}},
	}, known)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
