// The core beside its memory, with a clock of its own, for `ulpcore.rtl`. The host's side are the
// ports of this module; see memory.v for the memory's timing, plusargs and files. While `set_error`
// is high the memory's region of errors is that of the ports.

`timescale 1ns / 1ns

module harness #(
    parameter BUS_BYTES = 4
) (
    output reg         clk,
    input  wire        rst,
    input  wire        dump,
    input  wire        set_error,
    input  wire [31:0] error_first,
    input  wire [31:0] error_bytes,
    input  wire [31:0] error_response,
    output wire        interrupt,
    input  wire [7:0]  awaddr,
    input  wire        awvalid,
    output wire        awready,
    input  wire [31:0] wdata,
    input  wire        wvalid,
    output wire        wready,
    output wire        bvalid,
    input  wire        bready,
    input  wire [7:0]  araddr,
    input  wire        arvalid,
    output wire        arready,
    output wire [31:0] rdata,
    output wire        rvalid,
    input  wire        rready
);
    initial clk = 0;
    always #5 clk = ~clk;

    always @(posedge clk)
        if (set_error) begin
            memory.error_first <= error_first;
            memory.error_bytes <= error_bytes;
            memory.error_response <= error_response;
        end

    wire        m_arid, m_arvalid, m_arready, m_rid, m_rlast, m_rvalid, m_rready;
    wire [31:0] m_araddr;
    wire [8*BUS_BYTES-1:0] m_rdata, m_wdata;
    wire [7:0]  m_arlen;
    wire [2:0]  m_arsize;
    wire [1:0]  m_arburst, m_rresp;
    wire        m_awid, m_awvalid, m_awready, m_wlast, m_wvalid, m_wready, m_bid, m_bvalid;
    wire        m_bready;
    wire [31:0] m_awaddr;
    wire [7:0]  m_awlen;
    wire [2:0]  m_awsize;
    wire [1:0]  m_awburst, m_bresp;
    wire [BUS_BYTES-1:0] m_wstrb;

    core core (
        .clk(clk), .rst(rst), .interrupt(interrupt),
        .registers__awaddr(awaddr), .registers__awprot(3'd0), .registers__awvalid(awvalid),
        .registers__awready(awready), .registers__wdata(wdata), .registers__wstrb(4'hf),
        .registers__wvalid(wvalid), .registers__wready(wready), .registers__bresp(),
        .registers__bvalid(bvalid), .registers__bready(bready),
        .registers__araddr(araddr), .registers__arprot(3'd0), .registers__arvalid(arvalid),
        .registers__arready(arready), .registers__rdata(rdata), .registers__rresp(),
        .registers__rvalid(rvalid), .registers__rready(rready),
        .read__arid(m_arid), .read__araddr(m_araddr), .read__arlen(m_arlen),
        .read__arsize(m_arsize), .read__arburst(m_arburst), .read__arcache(), .read__arprot(),
        .read__arvalid(m_arvalid), .read__arready(m_arready), .read__rid(m_rid),
        .read__rdata(m_rdata), .read__rresp(m_rresp), .read__rlast(m_rlast),
        .read__rvalid(m_rvalid), .read__rready(m_rready),
        .write__awid(m_awid), .write__awaddr(m_awaddr), .write__awlen(m_awlen),
        .write__awsize(m_awsize), .write__awburst(m_awburst), .write__awcache(),
        .write__awprot(), .write__awvalid(m_awvalid), .write__awready(m_awready),
        .write__wdata(m_wdata), .write__wstrb(m_wstrb), .write__wlast(m_wlast),
        .write__wvalid(m_wvalid), .write__wready(m_wready), .write__bid(m_bid),
        .write__bresp(m_bresp), .write__bvalid(m_bvalid), .write__bready(m_bready)
    );

    memory #(.BUS_BYTES(BUS_BYTES)) memory (
        .clk(clk), .rst(rst), .dump(dump),
        .arid(m_arid), .araddr(m_araddr), .arlen(m_arlen), .arsize(m_arsize),
        .arburst(m_arburst), .arvalid(m_arvalid), .arready(m_arready), .rid(m_rid),
        .rdata(m_rdata), .rresp(m_rresp), .rlast(m_rlast), .rvalid(m_rvalid), .rready(m_rready),
        .awid(m_awid), .awaddr(m_awaddr), .awlen(m_awlen), .awsize(m_awsize),
        .awburst(m_awburst), .awvalid(m_awvalid), .awready(m_awready), .wdata(m_wdata),
        .wstrb(m_wstrb), .wlast(m_wlast), .wvalid(m_wvalid), .wready(m_wready), .bid(m_bid),
        .bresp(m_bresp), .bvalid(m_bvalid), .bready(m_bready)
    );
endmodule
