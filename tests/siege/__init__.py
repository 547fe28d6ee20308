"""What `make siege` breaks: each fault, alone and in company."""
