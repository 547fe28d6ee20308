// Command ferretdb is FerretDB: the MongoDB wire protocol over a folder of SQLite files.
//
// It is not MongoDB. No MongoDB server can be had from a package registry, but its real clients can,
// and what they ask in DNS is what the tests are about. FerretDB is embedded here: the module's own
// command panics, because its own build writes the version file that it reads.
//
// FerretDB says "standalone" to a client's hello, and drivers drop standalones from a list of several
// servers. So what stands before it here answers hello as a member of a deployment would:
//
//	-says standalone    as FerretDB does
//	-says mongos        a router of a sharded cluster; several of them over one folder are one database
//	-says rs0 -me HOST:PORT -hosts HOST:PORT,...
//	                    a member of the replica set rs0, of which the first of -hosts is primary
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/FerretDB/FerretDB/ferretdb"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
)

// Of the wire protocol: the operations whose replies can hold the answer to a hello, and the largest message.
const (
	opReply     = 1
	opMsg       = 2013
	headerSize  = 16
	maxMessage  = 48_000_000
	checksumBit = 1
)

type member struct {
	says  string
	me    string
	hosts []string
}

func main() {
	listen := flag.String("listen", ":27017", "TCP address")
	folder := flag.String("folder", "data", "folder of the SQLite files")
	says := flag.String("says", "standalone", "what a hello is told: standalone, mongos or rs0")
	me := flag.String("me", "", "with rs0: the member's own HOST:PORT")
	hosts := flag.String("hosts", "", "with rs0: every member's HOST:PORT, with commas; the first is primary")
	flag.Parse()
	self := member{says: *says, me: *me, hosts: strings.Split(*hosts, ",")}

	private, err := os.MkdirTemp("", "ferretdb-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(private)
	socket := filepath.Join(private, "backend.sock")
	database, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{Unix: socket},
		Handler:   "sqlite",
		SQLiteURL: "file:" + strings.TrimSuffix(*folder, "/") + "/",
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- database.Run(ctx) }()
	for { // listen when the database does, so that a readiness probe may be a connection
		if probe, err := net.Dial("unix", socket); err == nil {
			probe.Close()
			break
		}
		select {
		case err := <-ended:
			log.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	front, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			client, err := front.Accept()
			if err != nil {
				return
			}
			go self.serve(client, socket)
		}
	}()
	log.Printf("serving on %s, as %s", *listen, *says)
	err = <-ended
	front.Close()
	log.Printf("ended: %v", err)
}

// serve passes a client's bytes on as they are, and messages back with the answers to hello changed.
func (m member) serve(client net.Conn, socket string) {
	defer client.Close()
	backend, err := net.Dial("unix", socket)
	if err != nil {
		log.Print(err)
		return
	}
	go func() {
		_, _ = io.Copy(backend, client)
		backend.Close()
		client.Close()
	}()
	defer backend.Close()
	for {
		message, err := read(backend)
		if err == nil {
			_, err = client.Write(m.rewrite(message))
		}
		if err != nil {
			return
		}
	}
}

func read(from io.Reader) ([]byte, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(from, header); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint32(header)
	if length < headerSize || length > maxMessage {
		return nil, errors.New("no message of MongoDB's wire protocol")
	}
	message := make([]byte, length)
	copy(message, header)
	_, err := io.ReadFull(from, message[headerSize:])
	return message, err
}

// rewrite changes a message whose document is the answer to a hello; others come back as they are.
func (m member) rewrite(message []byte) []byte {
	const flags, kind, msgDocument, replyDocument = headerSize, headerSize + 4, headerSize + 5, headerSize + 20
	var at int
	switch operation := binary.LittleEndian.Uint32(message[12:]); {
	case m.says == "standalone":
		return message
	case operation == opMsg && len(message) > msgDocument+4 && message[kind] == 0:
		at = msgDocument
	case operation == opReply && len(message) > replyDocument+4:
		at = replyDocument
	default:
		return message
	}
	size := int(binary.LittleEndian.Uint32(message[at:]))
	var document bson.D
	if size > len(message)-at || bson.Unmarshal(message[at:at+size], &document) != nil {
		return message
	}
	changed, yes := m.hello(document)
	if !yes {
		return message
	}
	body, err := bson.Marshal(changed)
	if err != nil {
		log.Print(err)
		return message
	}
	result := append(append([]byte{}, message[:at]...), body...)
	if at == msgDocument { // the checksum of the message as it was would be wrong
		binary.LittleEndian.PutUint32(result[flags:], binary.LittleEndian.Uint32(result[flags:])&^checksumBit)
	}
	binary.LittleEndian.PutUint32(result, uint32(len(result)))
	return result
}

// hello changes the answer to a hello, and says whether the document is one.
func (m member) hello(document bson.D) (bson.D, bool) {
	is, primary := false, m.me == m.hosts[0]
	for i, element := range document {
		if element.Key == "isWritablePrimary" || element.Key == "ismaster" {
			is = true
			if m.says != "mongos" {
				document[i].Value = primary
			}
		}
	}
	if !is {
		return document, false
	}
	if m.says == "mongos" {
		return append(document, bson.E{Key: "msg", Value: "isdbgrid"}), true
	}
	document = append(document, bson.D{
		{Key: "secondary", Value: !primary},
		{Key: "setName", Value: m.says},
		{Key: "setVersion", Value: int32(1)},
		{Key: "hosts", Value: m.hosts},
		{Key: "me", Value: m.me},
		{Key: "primary", Value: m.hosts[0]},
	}...)
	if primary {
		document = append(document, bson.E{Key: "electionId", Value: primitive.ObjectID{0: 0x7f, 11: 1}})
	}
	return document, true
}
